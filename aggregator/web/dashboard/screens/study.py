"""A study: what it waits for, who has said what, what it has cost and will cost."""

from __future__ import annotations

from aggregator.watching.values import StudySeen
from aggregator.web.dashboard.screen import Screen, View


def value(view: View) -> StudySeen:
    """All that is known of it."""
    return view.watching.study(view.plan)


SCREENS = (Screen("study", "/studies/{plan}", value, "medveil aggregator study show {plan}", place=10),)
