"""``medveil research compare``: alone, federated, with noise and in one place, held against each other."""

from __future__ import annotations

from medveil_research.options import CompareOptions


def compare(options: CompareOptions) -> None:
    """Train alone, together, with noise and in one place, on images you hold; one page tells them apart."""
    from medveil_research.compare import compare as run

    run(options)
