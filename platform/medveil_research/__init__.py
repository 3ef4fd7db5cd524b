"""The researcher's desk; ``from medveil_research import Consortium`` is the way in for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medveil_research.consortium import Consortium

__all__ = ["Consortium"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: a command starts without a connection's libraries."""
    if name != "Consortium":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from medveil_research.consortium import Consortium

    return Consortium
