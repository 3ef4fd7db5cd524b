"""The files of MNIST become folders that a study reads, whole and in the two usual cuts."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil.noise_policies import NoPrivacy
from medveil.study import ModelChoice, SecureAggregation, Study, Training, Transforms
from medveil.tensors import ModelSpec, TensorSpec
from medveil_imaging.sources.formats.idx import idx_bytes, read_idx, read_idx_film
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film
from medveil_imaging.sources.site import read_site
from medveil_research.mnist import BadIdx, write_mnist_sites
from tries import leading

TRAIN, TEST = 200, 30


def digits(folder: Path, packed: bool = True, **spoiled: bytes) -> Path:
    """The four files: picture i holds i at its first place and its label at the second."""
    folder.mkdir()
    for which, count in (("train", TRAIN), ("t10k", TEST)):
        labels = (np.arange(count) * 7 % 10).astype(np.uint8)
        pictures = np.random.default_rng(count).integers(0, 255, (count, 28, 28), dtype=np.uint8)
        pictures[:, 0, 0], pictures[:, 0, 1] = np.arange(count), labels
        for name, values in (
            (f"{which}-images-idx3-ubyte", pictures),
            (f"{which}-labels-idx1-ubyte", labels),
        ):
            data = spoiled.get(name.replace("-", "_"), idx_bytes(values))
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(data, 1) if packed else data)
    return folder


def study() -> Study:
    return Study(
        name="digits",
        task="classification",
        classes=tuple("0123456789"),
        model=ModelChoice(
            name="any", tensors=ModelSpec((TensorSpec(name="w", shape=(1,)),)), initial_model="0" * 64
        ),
        transforms=Transforms(profile="xray", size=(28, 28)),
        training=Training(rounds=1, local_epochs=1, learning_rate=0.1),
        privacy=NoPrivacy(),
        secure_aggregation=SecureAggregation(update_clip=1.0, max_weight=10),
    )


@pytest.mark.parametrize("packed", leading([True, False], 1))
def test_every_picture_goes_to_one_hospital_as_a_patient_with_its_label(tmp_path: Path, packed: bool) -> None:
    cuts = write_mnist_sites(
        digits(tmp_path / "mnist", packed), tmp_path / "sites", hospitals=5, by_label=False
    )
    assert [(cut.train, cut.val, cut.test) for cut in cuts] == [(38, 2, 6)] * 5
    for place, cut in enumerate(cuts):
        site = read_site(cut.folder, study())
        assert site.problems == ()
        assert [len(site.train), len(site.val), len(site.test)] == [38, 2, 6]
        everybody = {p.patient: int(p.take([0])[1]) for p in (*site.train, *site.val)}
        assert everybody == {f"train-{i:05d}": i * 7 % 10 for i in range(place, TRAIN, 5)}
        assert {p.patient for p in site.test} == {f"test-{i:05d}" for i in range(place, TEST, 5)}
        pixels = read_film(cut.folder / "images" / f"train-{place:05d}.idx").pixels
        assert pixels.shape == (28, 28)
        assert pixels[0, :2].tolist() == [place, place * 7 % 10]


def test_cut_by_label_hospitals_see_few_digits_and_all_pictures_are_there(tmp_path: Path) -> None:
    cuts = write_mnist_sites(digits(tmp_path / "mnist"), tmp_path / "sites", hospitals=5, by_label=True)
    assert [cut.labels for cut in cuts] == [(0, 5), (1, 6), (2, 7), (3, 8), (4, 9)]
    names = [path.name for cut in cuts for path in cut.folder.glob("images/train-*.idx")]
    assert sorted(names) == [f"train-{i:05d}.idx" for i in range(TRAIN)]


def test_a_part_is_cut_from_both_sets_alike(tmp_path: Path) -> None:
    cuts = write_mnist_sites(
        digits(tmp_path / "mnist"), tmp_path / "sites", hospitals=4, by_label=False, images=100
    )
    assert sum(cut.train + cut.val for cut in cuts) == 100
    assert sum(cut.test for cut in cuts) == 15


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({"train_labels_idx1_ubyte": idx_bytes(np.zeros(199, np.uint8))}, "199 labels for 200 pictures"),
        ({"t10k_images_idx3_ubyte": b"\0\0\x08\x03\0\0"}, "ends within its header"),
        ({"t10k_images_idx3_ubyte": idx_bytes(np.zeros((3, 4, 5), np.uint8))[:-1]}, "fewer or more values"),
        ({"train_images_idx3_ubyte": idx_bytes(np.zeros(5, np.uint8))}, "something else than its name says"),
        ({"train_images_idx3_ubyte": b"PK\x03\x04 and so on"}, "no IDX file"),
        ({"train_images_idx3_ubyte": b"\0\0\x08\x03" + b"\xff" * 12}, "more than"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(
    tmp_path: Path, spoiled: dict[str, bytes], words: str
) -> None:
    source = digits(tmp_path / "mnist", **spoiled)
    with pytest.raises(BadIdx, match=words):
        write_mnist_sites(source, tmp_path / "sites", hospitals=3, by_label=False)
    assert not (tmp_path / "sites").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = digits(tmp_path / "mnist")
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadIdx, match="t10k-labels-idx1-ubyte is not there"):
        write_mnist_sites(source, tmp_path / "sites", hospitals=3, by_label=False)


def test_a_file_of_many_pictures_is_no_film_and_says_how_to_cut_it(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx_bytes(np.zeros((3, 4, 5), np.uint8)))
    with pytest.raises(Unusable, match="several pictures") as refused:
        read_film(path)
    assert "medveil research mnist" in refused.value.remedy


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.integers(1, 5), min_size=n, max_size=n)), st.randoms())
def test_what_is_written_is_read_back(edges: list[int], random: Any) -> None:
    values = np.array([random.randrange(256) for _ in range(int(np.prod(edges)))], np.uint8).reshape(edges)
    assert np.array_equal(read_idx(idx_bytes(values)), values)


def test_other_kinds_of_numbers_are_read_in_their_byte_order() -> None:
    data = b"\0\0\x0b\x02\0\0\0\x01\0\0\0\x02" + b"\x01\x00\xff\xff"
    assert read_idx_film(data).pixels.tolist() == [[256.0, -1.0]]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_picture_or_are_refused(data: bytes) -> None:
    for start in (b"", b"\0\0\x08\x02", b"\0\0\x0e\x04"):
        with suppress(Unusable):
            assert read_idx_film(start + data).pixels.ndim == 2
