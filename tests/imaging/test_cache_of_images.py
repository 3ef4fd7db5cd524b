"""The cache of images: sealed, of limited size, and never a wrong byte, whatever has happened to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from medveil.identity import Secret
from medveil_imaging import cache as module
from medveil_imaging.cache import PIECE, Damaged, ImageCache, Record, cache_size, clear_cache, files_in

KEY = Secret(bytes(range(32)))
NOTE = b'{"what": "a note"}'


def opened(folder: Path, *, key: Secret = KEY, most: int = 2**30) -> ImageCache:
    return ImageCache(folder, key, most_bytes=most)


def arrays(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, np.float32) for shape in shapes or [(3, 40)]]


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def filled(folder: Path, count: int = 3) -> None:
    cache = opened(folder)
    for number in range(count):
        assert cache.put(name(number), NOTE, arrays(number)) is not None


def read(record: Record, like: list[np.ndarray]) -> list[np.ndarray]:
    sizes = [one.nbytes for one in like]
    parts = (record.read(sizes, part, 0, size).view(np.float32) for part, size in enumerate(sizes))
    return [part.reshape(one.shape) for part, one in zip(parts, like, strict=True)]


def numbers(folder: Path, count: int = 3) -> list[int]:
    """Whose arrays can be read; never others than were put."""
    cache, found = opened(folder), []
    for number in range(count):
        record = cache.find(name(number))
        if record is not None:
            try:
                assert record.note() == NOTE
                assert np.array_equal(read(record, arrays(number))[0], arrays(number)[0])
                found.append(number)
            except Damaged:
                pass
    return found


def test_what_was_put_is_found_by_the_next_process(tmp_path: Path) -> None:
    filled(tmp_path)
    assert numbers(tmp_path) == [0, 1, 2]
    assert opened(tmp_path).find(name(3)) is None
    assert oct(files_in(tmp_path)[0].stat().st_mode)[-3:] == "600"


def test_a_part_can_be_read_alone(tmp_path: Path) -> None:
    parts = arrays(1, (3, PIECE // 4 + 5), (7,), (2, PIECE))
    record = opened(tmp_path).put(name(1), NOTE, parts)
    assert record is not None
    sizes = [part.nbytes for part in parts]
    for number, part in enumerate(parts):
        whole = part.tobytes()
        for start, stop in ((0, 0), (0, 1), (8, 28), (PIECE - 3, PIECE + 3), (0, part.nbytes)):
            if stop <= part.nbytes:
                assert record.read(sizes, number, start, stop).tobytes() == whole[start:stop]


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    [whole] = files_in(tmp_path / "whole")
    data = whole.read_bytes()
    each = (len(data) - module.FIRST.size) // 3
    for place in range(0, len(data), 7):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / whole.name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        found = numbers(folder)
        if place >= module.FIRST.size:
            damaged = (place - module.FIRST.size) // each
            assert set(found) < {0, 1, 2}
            assert damaged not in found
            assert set(range(damaged)) <= set(found)


def test_a_record_that_was_half_written_is_not_there_and_the_others_are(tmp_path: Path) -> None:
    filled(tmp_path)
    [path] = files_in(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    assert numbers(tmp_path) == [0, 1]


def test_a_record_is_no_other_record(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    [path] = files_in(tmp_path)
    data = path.read_bytes()
    each = (len(data) - module.FIRST.size) // 2
    first, second = data[module.FIRST.size :][:each], data[module.FIRST.size :][each:]
    head = module.HEAD.size
    path.write_bytes(data[: module.FIRST.size] + first[:head] + second[head:] + second[:head] + first[head:])
    assert numbers(tmp_path, 2) == []


def test_a_cache_of_another_key_is_removed_and_told_of(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "notes.txt").write_text("not ours")
    cache = opened(tmp_path, key=Secret(bytes(32)))
    assert (cache.strangers, cache.find(name(0)), cache.size) == (1, None, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_can_be_read_off_the_disk(tmp_path: Path) -> None:
    cache, zeros = opened(tmp_path), [np.zeros(4096, np.float32)]
    for _ in range(2):
        assert cache.put(cache.name_of(b"study", b"content"), b"P-0001", zeros) is not None
    data = files_in(tmp_path)[0].read_bytes()
    assert not any(text in data for text in (b"P-0001", b"content", bytes(64)))
    size = (len(data) - module.FIRST.size) // 2 - module.HEAD.size
    assert (
        data[-size:] != data[-2 * size - module.HEAD.size :][:size]
    )  # one content, two times, no repetition


def test_beyond_its_size_what_was_used_longest_ago_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 0)  # a file for each record
    monkeypatch.setattr(module, "MOST_FILES", 2**40)
    filled(tmp_path)
    sizes = {path: path.stat().st_size for path in files_in(tmp_path)}
    for number in range(3):
        record = opened(tmp_path).find(name(number))
        assert record is not None
        os.utime(record.file.path, (number, number))
    cache = opened(tmp_path, most=sum(sizes.values()))
    assert cache.find(name(0)) is not None  # in use now: it stays
    for number in (3, 4):
        assert cache.put(name(number), NOTE, arrays(number)) is not None
    assert cache.put(name(5), NOTE, arrays(5)) is None
    assert cache.full == "size"
    assert cache_size(tmp_path) <= sum(sizes.values())
    assert numbers(tmp_path, 6) == [0, 3, 4]


def test_of_many_small_files_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 2)
    for number in range(3):
        record = opened(tmp_path).put(name(number), NOTE, arrays(number))
        assert record is not None
        os.utime(record.file.path, (number, number))
    assert numbers(tmp_path) == [1, 2]


def test_a_full_disk_takes_no_record_and_keeps_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    assert cache.put(name(0), NOTE, arrays(0)) is not None
    calls: list[int] = []

    def full(handle: int, data: memoryview, place: int) -> int:
        calls.append(place)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: len(data) // 2 + 1], place)

    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert cache.put(name(1), NOTE, arrays(1)) is None
    assert cache.full == "disk"
    assert numbers(tmp_path) == [0]
    assert cache.put(name(2), NOTE, arrays(2)) is not None
    assert numbers(tmp_path) == [0, 2]


def test_room_is_left_on_the_disk_for_what_must_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESERVE_BYTES", 2**62)
    cache = opened(tmp_path)
    assert cache.put(name(0), NOTE, arrays(0)) is None
    assert (cache.full, files_in(tmp_path)) == ("disk", [])


def test_a_cache_may_be_emptied_while_it_is_used(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    record = cache.put(name(0), NOTE, arrays(0))
    assert record is not None
    clear_cache(tmp_path)
    assert cache_size(tmp_path) == 0
    assert np.array_equal(read(record, arrays(0))[0], arrays(0)[0])
    assert cache.put(name(1), NOTE, arrays(1)) is not None
    assert numbers(tmp_path) == [1]
