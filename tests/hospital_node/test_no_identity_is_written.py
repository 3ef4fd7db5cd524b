"""Whatever the images and the manifest tell of patients, nothing that a node writes or logs tells it."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest

from canaries import CODINGS, canaries, found_in, found_under
from hospital_node.images import read_images, read_images_logged
from hospital_node.settings import Node, NodeSettings, Policy
from hospitals import PEOPLE, Hospital, plan_of
from medveil_imaging import cache
from telling_sites import telling_site


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    images = telling_site(tmp_path / "images")
    values = NodeSettings(
        name="hospital-1", aggregator="https://here", data=images, dataset="films", policy=Policy()
    )
    node = Node(tmp_path / "node", values)
    node.save()
    PEOPLE[0].save(node.key)
    return Hospital(node, PEOPLE[0])


def test_the_search_finds_what_is_planted() -> None:
    for canary in canaries():
        for coding in CODINGS:
            try:
                raw = canary.encode(coding)
            except UnicodeEncodeError:
                continue
            assert found_in(b"\x00\xff" + raw + b"\x17"), (canary, coding)
        assert found_in(canary.upper().encode())
        assert found_in(b'{"a": "' + canary.encode().hex().encode() + b'"}')
        assert found_in(b'{"a": "' + base64.b64encode(b"ab" + canary.encode() + b"cd") + b'"}')
        assert found_in(zlib.compress(b"behind " + canary.encode()))
    assert found_in(bytes(1000) + b"nothing to see, number 4711, on a stove") == set()


def test_names_of_files_and_folders_are_searched_too(tmp_path: Path) -> None:
    (tmp_path / "a" / "ottoline quillfeather").mkdir(parents=True)
    assert set(found_under(tmp_path)) == {"a/ottoline quillfeather"}


def test_a_node_that_approves_reads_and_charges_writes_no_identity(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 0)  # so images go to the disk
    assert found_under(hospital.images)
    plan = plan_of()
    hospital.approve(plan)
    site = read_images_logged(hospital.node, plan.study, plan.id)
    assert [sum(1 for _ in part) for part in (site.train, site.val, site.test)] == [8, 2, 2]
    assert len([problem for problem in site.problems if problem.severity == "error"]) == 4
    assert any(path.is_file() for path in hospital.node.cache.rglob("*"))
    hospital.runs(plan, 1, 2)
    hospital.take(plan)
    assert found_under(hospital.node.folder) == {}
    assert found_in("".join(capfd.readouterr()).encode()) == set()


def test_an_error_about_an_image_tells_no_identity(hospital: Hospital) -> None:
    """It goes on the operator's screen; the file's name stands there beside it, never in it."""
    site = read_images(hospital.node, plan_of().study)
    for problem in site.problems:
        assert found_in(f"{problem.code} {problem.reason} {problem.remedy}".encode()) == set(), problem.code


def test_a_stop_in_the_middle_of_reading_leaves_no_identity(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 0)
    plan, seen = plan_of(), 0
    hospital.approve(plan)

    def stop(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr("medveil_imaging.sources.site.tell", stop)
    with pytest.raises(KeyboardInterrupt):
        read_images(hospital.node, plan.study)
    assert seen == 7
    assert found_under(hospital.node.folder) == {}
