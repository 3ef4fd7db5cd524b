"""Plants a fault in the product's own source, function by function."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest

ROOMS = ("hospital_node", "privacy", "medveil", "medveil_imaging", "medveil_research")


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Replace ``old`` by ``new`` in the source of a function, method or property, wherever it is known."""
    real = inspect.getattr_static(owner, name)
    function = real.fget if isinstance(real, property) else getattr(real, "__func__", real)
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, f"{name} has changed: plant this fault elsewhere"
    found: dict[str, Any] = {}
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), function.__globals__, found)
    if inspect.isclass(owner):
        monkeypatch.setattr(owner, name, found[name])
        return
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] in ROOMS]:
        for known, value in list(vars(module).items()):
            if value is function:
                monkeypatch.setattr(module, known, found[name])
