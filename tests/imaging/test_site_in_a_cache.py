"""A site too large for memory: its images come from a cache, are the same, and never those of before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from folders import film, lines_of, write_folder, write_manifest
from medveil.identity import Secret
from medveil.study import Study
from medveil_imaging import cache as cache_module
from medveil_imaging.cache import ImageCache, clear_cache, files_in
from medveil_imaging.patients import Patient
from medveil_imaging.sources import shelf
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import Wanted
from medveil_imaging.sources.readers import Item, Raw, in_this_process
from medveil_imaging.sources.shelf import ImageChanged, ShelvedPatient
from medveil_imaging.sources.site import SiteData, read_site
from world import make_study as study_of_films


@pytest.fixture(autouse=True)
def _small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "IN_MEMORY_BYTES", 0)


class Counted:
    """Readers that remember what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(
        self, items: Iterable[Item], wanted: Callable[[Item], Sequence[Wanted]]
    ) -> Iterator[tuple[Item, Raw | Unusable]]:
        def noted(item: Item) -> Sequence[Wanted]:
            found = wanted(item)
            self.asked += [one.path.name for one in found]
            return found

        return in_this_process(items, noted)


def read(films: Path, study: Study | None = None, **options: Any) -> tuple[SiteData, list[str]]:
    """The site by a cache beside it, and the files that were opened for it."""
    readers = Counted()
    cache = ImageCache(films.parent / "cache", Secret(bytes(32)), most_bytes=options.get("most", 2**30))
    return read_site(films, study or study_of_films(), readers=readers, cache=cache), readers.asked


def everybody(site: SiteData) -> list[Patient]:
    return [*site.train, *site.val, *site.test]


def assert_alike(site: SiteData, films: Path, study: Study | None = None) -> None:
    """As the same folder is in memory."""
    plain = read_site(films, study or study_of_films(), readers=in_this_process)
    assert [one.patient for one in everybody(site)] == [one.patient for one in everybody(plain)]
    for one, other in zip(everybody(site), everybody(plain), strict=True):
        assert len(one) == len(other)
        for k in range(len(one)):
            for mine, its in zip(one.take([k]), other.take([k]), strict=True):
                assert mine.dtype == its.dtype
                assert torch.equal(mine, its)
        for mine, its in zip(one.take(range(len(one))), other.take(range(len(one))), strict=True):
            assert torch.equal(mine, its)


def codes(site: SiteData) -> list[str]:
    return [problem.code for problem in site.problems]


def test_the_second_reading_opens_no_image_and_gives_the_same(tmp_path: Path) -> None:
    films = write_folder(tmp_path / "films", lines_of(images=2))
    (films / "val-1-0.png").write_bytes((films / "test-1-0.png").read_bytes())  # two patients share a film
    first, opened = read(films)
    assert len(opened) == 39
    assert_alike(first, films)
    second, opened = read(films)
    assert opened == []
    assert_alike(second, films)
    assert first.problems == second.problems != ()
    assert all(isinstance(one, ShelvedPatient) for one in everybody(second))


def test_a_small_site_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "IN_MEMORY_BYTES", 2**28)
    films = write_folder(tmp_path / "films")
    site, _ = read(films)
    assert_alike(site, films)
    assert not any(isinstance(one, ShelvedPatient) for one in everybody(site))
    assert not (tmp_path / "cache").exists()


def test_what_has_changed_is_read_anew_and_nothing_else(tmp_path: Path) -> None:
    films, study = write_folder(tmp_path / "films"), study_of_films()
    read(films)
    film(films / "train-3-0.png", 12345)
    site, opened = read(films)
    assert opened == ["train-3-0.png"]
    assert_alike(site, films)
    write_manifest(films, [(f, p, s, 1 - label) for f, p, s, label in lines_of()])
    site, opened = read(films)
    assert opened == []  # labels are the manifest's
    assert_alike(site, films)
    size = tuple(edge + 2 for edge in study.transforms.size)
    larger = study.model_copy(update={"transforms": study.transforms.model_copy(update={"size": size})})
    site, opened = read(films, larger)
    assert len(opened) == 20
    assert_alike(site, films, larger)


def test_another_version_of_the_code_reads_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = write_folder(tmp_path / "films")
    read(films)
    monkeypatch.setattr(shelf, "reading_version", lambda: "another one")
    assert len(read(films)[1]) == 20


def test_damage_is_told_of_and_mended(tmp_path: Path) -> None:
    films = write_folder(tmp_path / "films")
    site, _ = read(films)
    [path] = files_in(tmp_path / "cache")
    data = bytearray(path.read_bytes())
    for place in range(cache_module.FIRST.size + cache_module.HEAD.size + 8, len(data), 3000):
        data[place] ^= 1
    path.write_bytes(data)
    assert_alike(site, films)  # by those who have the site already
    site, opened = read(films)
    assert 0 < len(opened) < 20
    assert "cache-damaged" in codes(site)
    assert_alike(site, films)


def test_a_cache_that_is_full_or_gone_costs_time_only(tmp_path: Path) -> None:
    films = write_folder(tmp_path / "films")
    site, _ = read(films, most=20_000)
    assert "cache-full" in codes(site)
    assert_alike(site, films)
    clear_cache(tmp_path / "cache")
    assert_alike(site, films)


def test_a_disk_without_room_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "RESERVE_BYTES", 2**62)
    films = write_folder(tmp_path / "films")
    site, _ = read(films)
    assert codes(site) == ["cache-disk-full"]
    assert_alike(site, films)


def test_a_file_that_was_exchanged_is_not_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    films = write_folder(tmp_path / "films")
    site, _ = read(films, most=0)
    film(films / "train-0-0.png", 999)
    with pytest.raises(ImageChanged):
        site.train[0].take([0])
    assert site.train[1].take([0])[0].shape[0] == 1


def test_label_maps_come_from_the_cache_as_they_were(
    tmp_path: Path, make_study: Callable[..., Study]
) -> None:
    films, random = tmp_path / "volumes", np.random.default_rng(0)
    films.mkdir()
    lines = ["image,patient_id,split,label_map"]
    for number, split in enumerate(("train", "train", "val", "test")):
        voxels = random.normal(size=(20, 18, 16)).astype(np.float32)
        labels = (random.random((20, 18, 16)) > 0.8).astype(np.uint8)
        for what, data in (("image", voxels), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), films / f"{what}-{number}.nii")
        lines.append(f"image-{number}.nii,p{number},{split},labels-{number}.nii")
    (films / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    study = make_study("mri", "segmentation")
    assert_alike(read(films, study)[0], films, study)
    site, opened = read(films, study)
    assert opened == []
    assert_alike(site, films, study)
