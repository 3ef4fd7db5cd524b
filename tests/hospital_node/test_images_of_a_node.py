"""A node's images on its own disk: under its own key, shown, removed, and gone when no plan wants them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from structlog.testing import capture_logs
from typer.testing import CliRunner

from folders import write_folder
from hospital_node.cli import app
from hospital_node.images import read_images, read_images_logged
from hospital_node.operator import opened
from hospital_node.plan_queue import PlanQueue
from hospital_node.settings import Node, NodeSettings
from medveil.identity import Identity
from medveil_imaging import cache
from medveil_imaging.cache import cache_size, files_in
from medveil_imaging.sources.shelf import ShelvedPatient
from medveil_imaging.sources.site import read_site
from medveil_imaging.sources.workers import workers
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 0)
    settings = NodeSettings(
        name="hospital-1", aggregator="https://here", data=write_folder(tmp_path / "films"), dataset="films"
    )
    made = Node(tmp_path / "node", settings)
    made.save()
    PEOPLE[0].save(made.key)
    return made


def test_a_large_site_lies_in_the_nodes_folder_under_its_own_key(node: Node) -> None:
    site, plain = read_images(node, make_study()), read_site(node.settings.data, make_study())
    assert all(isinstance(one, ShelvedPatient) for one in site.train)
    assert all(
        torch.equal(a.take([0])[0], b.take([0])[0]) for a, b in zip(site.train, plain.train, strict=True)
    )
    [path] = files_in(node.cache)
    node.key.unlink()
    Identity.generate("hospital-1").save(node.key)
    site = read_images(node, make_study())
    assert [problem.code for problem in site.problems] == ["cache-of-another-key"]
    assert not path.exists()


def test_without_room_on_the_disk_all_is_in_memory(node: Node) -> None:
    settings = node.settings.model_copy(update={"cache_gb": 0.0})
    site = read_images(Node(node.folder, settings), make_study())
    assert not any(isinstance(one, ShelvedPatient) for one in site.train)
    assert not node.cache.exists()


def test_the_operator_sees_and_removes_it(node: Node) -> None:
    read_images(node, make_study())
    command = ["cache", "--folder", str(node.folder)]
    assert "of 20 GB are in use" in CliRunner().invoke(app, command).stdout
    assert cache_size(node.cache) > 0
    assert CliRunner().invoke(app, [*command, "--clear"]).exit_code == 0
    assert cache_size(node.cache) == 0


def test_the_log_says_how_many_were_refused_and_what_is_with_the_cache(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RESERVE_BYTES", 2**62)
    monkeypatch.setattr("hospital_node.images.LOG_EVERY_S", 0.0)
    (node.settings.data / "train-0-0.png").write_bytes(b"no picture")
    with capture_logs() as logged:
        read_images_logged(node, make_study(), "0" * 64)
    events = [(line["event"], line.get("count"), line.get("code")) for line in logged]
    assert events[-2:] == [("images.read", 1, None), ("images.cache", None, "cache-disk-full")]
    assert ("images.reading", 20, None) in events


def test_nothing_stays_when_the_last_plan_is_over(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(workers(), "rest")  # as it is outside of tests
    first, last = (make_plan(PEOPLE, make_study(name=name)) for name in ("first", "last"))
    nothing = cast(Any, None)
    with opened(node) as journal:
        queue = PlanQueue(node, PEOPLE[0], journal, nothing, nothing, nothing)
        with closing(queue):
            for plan in (first, last):
                journal.approve(plan, b"signed")
            read_images(node, make_study())
            assert workers()._server is None  # no process that has seen an image
            for plan, left in ((first, True), (last, False)):
                journal.finish(plan.id)
                queue.forget_images()
                assert bool(cache_size(node.cache)) == left
