"""``medveil simulate``: a study with thousands of hospitals in this machine, and its report."""

from __future__ import annotations

from medveil_research.simulation.options import SimulateOptions


def simulate(options: SimulateOptions) -> None:
    """Play a study with up to 2,000 made-up hospitals here: real node and masks, no network."""
    from medveil_research.simulate import simulate as run

    run(options)
