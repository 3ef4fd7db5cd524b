"""What the tests themselves may take: `make test` stays short."""

from __future__ import annotations

import pytest

from spent import FILE_S, YARDSTICK_S, beyond, yardstick_s


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_a_file_that_takes_too_much_is_named_however_slow_the_machine_is(slower: float) -> None:
    work = {"tests/a.py": FILE_S * 2, "tests/b.py": FILE_S * 0.9, "tests/c.py": FILE_S * 4}
    found = beyond({n: s * slower for n, s in work.items()}, yardstick=YARDSTICK_S * slower)
    assert list(found) == ["tests/c.py", "tests/a.py"]
    assert found["tests/a.py"] == pytest.approx(2.0)


def test_the_yardstick_measures_work() -> None:
    assert yardstick_s() > 0
