"""How hospitals keep images on disk, by name: one file a layout, found through :data:`LAYOUTS`.

A layout says whether a folder is of its kind, and which lines of a manifest follow. It opens no image beyond
its header, decides nothing for several patients at once, and names what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medveil.registry import Registry
from medveil_imaging.sources.proposed import Proposal, Wish
from medveil_imaging.sources.tree import Leavings, Tree


@dataclass(frozen=True)
class Layout:
    """One way to keep images in folders."""

    what: str
    """As a person is told."""
    asked: int
    """Layouts are asked in this order whether a folder is theirs; the first that says so is taken."""
    fits: Callable[[Tree], bool]
    propose: Callable[[Tree, Wish, Leavings], Proposal]


LAYOUTS: Registry[Layout] = Registry("layout", __name__)


def layout_of(tree: Tree) -> str:
    """The name of the layout that a folder seems to have."""
    return next(
        name for name in sorted(LAYOUTS, key=lambda name: LAYOUTS[name].asked) if LAYOUTS[name].fits(tree)
    )
