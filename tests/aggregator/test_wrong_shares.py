"""A hospital that returns a wrong share is named in the round's record, whether the round succeeds or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from privacy.secagg.messages import Unmask
from world import Site, finish, make_sites, make_world, play


@dataclass
class Liar(Site):
    """Returns something else than it was dealt by hospital 1."""

    def send(self, kind: str, body: bytes) -> None:
        if kind == "unmask":
            honest = Unmask.from_bytes(body)
            shares = {**honest.self_shares, 1: bytes(33)}
            false = honest.model_copy(update={"self_shares": shares})
            context = self.state.committed.party.setting.context
            body = false.signed_by(self.identity, context, self.state.committed.transcript).to_bytes()
        super().send(kind, body)


def _study(folder: Path, liars: tuple[int, ...]) -> dict[str, Any]:
    world = make_world(folder, hospitals=4)
    sites = make_sites(world)
    for i in liars:
        sites[i - 1] = Liar(world, i, sites[i - 1].update)
    return finish(world, sites)


@pytest.mark.parametrize("liars", [(), (2,)])
def test_a_round_goes_on_without_the_wrong_share_and_says_who_returned_it(
    tmp_path: Path, liars: tuple[int, ...]
) -> None:
    status = _study(tmp_path, liars)
    assert len(status["versions"]) == 3
    for attempt in status["attempts"]:
        assert attempt["outcome"] == "done"
        assert attempt["wrong_shares"] == [f"hospital-{i}" for i in liars]


def test_too_many_wrong_shares_end_the_attempt_and_name_all(tmp_path: Path) -> None:
    (attempt,) = _study(tmp_path, (2, 3))["attempts"]  # all have given shares: nobody can give it up
    assert (attempt["outcome"], attempt["reason"]) == ("failed", "wrong-shares")
    assert attempt["wrong_shares"] == ["hospital-2", "hospital-3"]


def test_right_shares_that_come_late_make_up_for_wrong_ones(tmp_path: Path) -> None:
    world = make_world(tmp_path, hospitals=5)
    sites = make_sites(world)
    sites[1] = Liar(world, 2, sites[1].update)
    play(world, sites, until=lambda: world.phase == "unmask")
    play(world, sites[:3], until=lambda: world.phase == "abort")  # three shares, one of them wrong
    assert world.status["waiting_for"]["failed_by"] == "wrong-shares"
    world.restart()
    assert world.phase == "abort"
    status = finish(world, sites)
    assert [a["outcome"] for a in status["attempts"]] == ["done"] * 3
    assert status["attempts"][0]["wrong_shares"] == ["hospital-2"]
