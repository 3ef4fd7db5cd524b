"""The leader is killed at random moments of rounds, nginx in front: no sum is lost, and each is right."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fronted import Playing, front_with
from nginx import INSTALL, NGINX
from postgres import Cluster
from remote_sites import RemoteSite, Stage
from world import World, make_sites, make_world, play, unit

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason=INSTALL)]
STUDY: dict[str, Any] = {
    "training": {"rounds": 500, "local_steps": 1, "learning_rate": 1.0},
    "deadlines": {"silence_s": 120.0, "train_s": 600.0},
}
KILLS = 5


def words(data: bytes) -> bytes:
    """A sum without its last word, which checks it under a key that each attempt draws anew."""
    return np.frombuffer(data, "<u8")[:-1].tobytes()


def right(folder: Path, versions: int) -> list[bytes]:
    """The first sums of the same study, played in calm."""
    world: World = make_world(folder, **STUDY)
    play(world, make_sites(world), until=lambda: len(world.status["versions"]) > versions)
    found = [words(world.sum(version)) for version in range(1, versions + 1)]
    world.store.close()
    return found


def test_every_sum_is_right_whenever_the_leader_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    draw, versions = random.Random(7), list[Any]()
    with front_with(tmp_path, cluster, **STUDY) as front:
        world, remote = front.pair.world, front.remote
        stage: Any = Stage(world.plan, world.identities, remote)
        playing = Playing([RemoteSite(stage, i, lambda _, i=i: unit(i)) for i in (1, 2, 3)])  # type: ignore[misc]
        name, at = world.identities[0].name, f"/v1/plans/{world.plan.id}"

        def look() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(remote.send(name, "GET", f"{at}/status"))
            assert found["versions"][: len(versions)] == versions  # what is published stays
            versions[:] = found["versions"]
            return found

        for _ in range(KILLS):
            time.sleep(draw.uniform(0.0, 1.5))
            front.kill_the_leader()
            before = len(versions)
            while len(versions) == before and not playing.errors:  # and the rounds go on
                look()
                time.sleep(0.1)
        status = look()
        playing.stop()
        ended = [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"]]
        assert ended == [(number, 1, "done") for number in range(1, len(ended) + 1)]  # none lost, none twice
        sums = [words(remote.send(name, "GET", f"{at}/versions/{v['number']}/sum")) for v in versions[1:]]
        assert len(front.pair.leaders()) == KILLS + 1
    assert sums == right(tmp_path / "calm", len(sums))
