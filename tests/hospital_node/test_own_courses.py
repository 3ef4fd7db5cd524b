"""A hospital's own courses: sealed, and two of them until a sum decides which one holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hospital_node.own_courses import LostCourse, OwnCourses
from medveil.identity import Secret
from medveil.tensors import Float32

KEY = Secret(bytes(32))


def course(values: float) -> Float32:
    return np.full(3, values, np.float32)


def test_two_courses_are_kept_until_a_sum_decides_between_them(tmp_path: Path) -> None:
    courses = OwnCourses(tmp_path / "models" / "plan.courses", KEY)
    assert not courses.find(0, size=3).any()
    courses.keep(1, course(1), beside=0)
    courses.keep(2, course(2), beside=1)
    assert np.array_equal(OwnCourses(tmp_path / "models" / "plan.courses", KEY).find(1, size=3), course(1))
    courses.keep(3, course(3), beside=1)  # round 2 came to no sum with this hospital in it
    assert np.array_equal(courses.find(1, size=3), course(1))
    assert np.array_equal(courses.find(3, size=3), course(3))
    with pytest.raises(LostCourse, match="round 2"):
        courses.find(2, size=3)


def test_what_lies_on_the_disk_is_sealed_and_a_damaged_file_is_no_course(tmp_path: Path) -> None:
    path = tmp_path / "plan.courses"
    OwnCourses(path, KEY).keep(1, course(1), beside=0)
    data = path.read_bytes()
    assert course(1).tobytes() not in data
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(LostCourse):
        OwnCourses(path, KEY).find(1, size=3)
    path.write_bytes(data)
    with pytest.raises(LostCourse):
        OwnCourses(path, Secret(bytes([1] * 32))).find(1, size=3)
    with pytest.raises(LostCourse):
        OwnCourses(path, KEY).find(1, size=4)  # another study's
    OwnCourses(path, KEY).forget()
    assert not path.exists()
