"""``medveil demo``: a whole consortium on this machine."""

from __future__ import annotations

from medveil_research.options import DemoOptions


def demo(options: DemoOptions) -> None:
    """Run a whole federated study on this machine: aggregator, hospitals, masked rounds, report."""
    from medveil_research.demo import demo as run

    run(options)
