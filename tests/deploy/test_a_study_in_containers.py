"""Our images, built and run: three hospitals play a study in them; what is missing is refused by name."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from contained import AGGREGATOR, HEALTHY, NODE, Container, Played
from containers import INSTALL, UID, Engine, available
from old_folders import unpack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
STORE = "MEDVEIL_IMAGES_STORE"
"""A folder of images to use again; without it both are built, which takes half an hour on two busy cores."""


@dataclass
class Seen:
    report: str
    well: dict[str, str]
    written: dict[str, set[str]]
    ended: dict[str, str]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if not available():
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
        pytest.skip(INSTALL)
    kept = os.environ.get(STORE)
    engine = Engine(Path(kept) if kept else tmp_path_factory.mktemp("images"))
    try:
        for file, image in (("Containerfile.aggregator", AGGREGATOR), ("Containerfile.node", NODE)):
            if not (kept and engine.has(image)):
                engine.build(file, image)
        yield engine
    finally:
        engine.end() if kept else engine.remove()


@pytest.fixture(scope="module")
def seen(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    with Played(engine, tmp_path_factory.mktemp("boxes")) as played:
        played.set_up()
        played.open()
        report = played.report().read_text()
        boxes = {"aggregator": played.aggregator} | played.nodes
        kinds = {name: "aggregator" if name == "aggregator" else "node" for name in boxes}
        well = {name: box.does(*HEALTHY, kinds[name], expected=None) for name, box in boxes.items()}
    return Seen(
        report=report,
        well=well,
        written={name: box.written() for name, box in boxes.items()},
        ended={
            name: box.does(*HEALTHY, kinds[name], expected=1) for name, box in boxes.items()
        },
    )  # fmt: skip


@pytest.fixture
def aggregator(engine: Engine, tmp_path: Path) -> Container:
    return Container(engine, AGGREGATOR, tmp_path / "state")


def test_a_study_of_three_hospitals_in_containers_comes_to_its_report(seen: Seen) -> None:
    assert "boxes" in seen.report
    assert len(seen.ended) == 4


def test_the_health_check_tells_a_process_that_works_from_one_that_was_stopped(seen: Seen) -> None:
    assert set(seen.well.values()) == {""}
    assert all("the node was stopped" in said for name, said in seen.ended.items() if name != "aggregator")
    assert "does not answer" in seen.ended["aggregator"]


def test_nothing_is_written_but_the_volume_and_tmp(seen: Seen) -> None:
    assert {name: files for name, files in seen.written.items() if files} == {}


def test_what_runs_is_no_root_and_has_nothing_to_build_with(aggregator: Container) -> None:
    said = aggregator.does("sh", "-c", "id -u; command -v pip gcc make; ls /opt/medveil/bin", expected=0)
    assert said.splitlines()[0] == str(UID)
    assert not {"pip", "gcc", "make"} & {Path(line).name for line in said.splitlines()}
    said = aggregator.does("touch", "/opt/medveil/lib/x", expected=1)
    assert "Permission denied" in said
    assert "'torch'" in aggregator.does("medveil", "demo", expected=1)


def test_without_its_volume_a_container_writes_nothing_and_says_so(aggregator: Container) -> None:
    said = aggregator.does("medveil", "aggregator", "init", expected=1, mounts=[])
    assert "no-volume" in said
    os.chown(aggregator.folder, 0, 0)
    aggregator.folder.chmod(0o755)
    said = aggregator.does("medveil", "aggregator", "init", expected=1)
    assert f"user {UID} may not write" in said
    assert not list(aggregator.folder.iterdir())


@pytest.mark.parametrize("code", ["old-schema", "unknown-schema"])
def test_a_database_of_another_version_is_left_as_it_is(aggregator: Container, code: str) -> None:
    aggregator.does("medveil", "aggregator", "init")
    file = aggregator.folder / "aggregator-data" / "aggregator.db"
    if code == "old-schema":
        file.unlink()
        unpack("database_0003.json", aggregator.folder / "old", database="aggregator.db")
        shutil.move(aggregator.folder / "old" / "aggregator.db", file)
        os.chown(file, UID, UID)
    else:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
    before = file.read_bytes()
    assert code in aggregator.does("medveil", "aggregator", "serve", expected=1)
    assert file.read_bytes() == before


def test_a_node_whose_images_are_not_mounted_joins_nothing(engine: Engine, tmp_path: Path) -> None:
    with Played(engine, tmp_path / "played", hospitals=1) as played:
        played.set_up(until="invited")
        ((name, node),) = played.nodes.items()
        said = node.does(
            "medveil", "node", "join", f"{name}.invitation", "--data", "/not-mounted", "--yes", expected=1
        )
        assert "there is no folder '/not-mounted'" in said  # a place of its own: /images was made by others
        assert not (node.folder / "node-data").exists()
        node.does("medveil", "node", "join", f"{name}.invitation", "--data", "/images", "--yes")
        node.start("medveil", "node", "run")
        node.wait_until_well("node")
        node.stop()
        assert "the node was stopped" in node.does(*HEALTHY, "node", expected=1)
