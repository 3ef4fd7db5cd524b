"""What the process of a server is set to before its first answer."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from aggregator.settings import Settings
from aggregator.web import connections


def test_no_thread_holds_the_event_loop_up_for_pythons_own_five_milliseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []

    class Quiet:
        async def serve(self) -> None:
            found.append(sys.getswitchinterval())

    monkeypatch.setattr(connections, "make_server", lambda *_: Quiet())
    monkeypatch.setattr(connections, "keep_freed", lambda _: True)
    before = sys.getswitchinterval(), gc.get_threshold()
    try:
        connections.run(FastAPI(), Settings(tmp_path), None)
    finally:
        sys.setswitchinterval(before[0])
        gc.set_threshold(*before[1])
    assert found == [pytest.approx(0.001)]
