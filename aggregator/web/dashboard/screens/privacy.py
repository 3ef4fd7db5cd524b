"""Privacy: what each study costs its patients, in sentences for whoever answers for it."""

from __future__ import annotations

from aggregator.watching.privacy import Privacy
from aggregator.web.dashboard.screen import Screen, View


def value(view: View) -> Privacy:
    """The newest studies that may be read."""
    return view.measures.privacy(view.plans, study=view.filters.get("study", ""))


SCREENS = (
    Screen(
        "privacy",
        "/privacy",
        value,
        "medveil aggregator study privacy",
        place=50,
        filters=("study",),
        options=("study",),
    ),
)
