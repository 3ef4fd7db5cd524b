"""What the admin says of a study that is there: pause, go on, stop, withdraw. For commands; no page does it.

The word is signed with the admin key on the admin's machine and written by one transaction. A running
aggregator obeys within a second, and tells the hospitals.
"""

from __future__ import annotations

import time

from aggregator.admin import opened, plan_meant
from aggregator.settings import Settings
from medveil.errors import BadOption
from medveil.messages import LONGEST_REASON
from medveil.plan import Plan
from medveil.reports import Directive, Order
from medveil.shown import is_plain


def say(settings: Settings, typed: str, order: Order, reason: str) -> tuple[Plan, Directive]:
    """Say something of a study.

    Args:
        typed: the study's name, words or hash. reason: one line, which every hospital of it reads.
    Raises: BadOption, NoPlan, NotAFingerprint, WordRefused; what opening the store raises.
    """
    words = checked_reason(reason)
    with opened(settings) as store:
        plan_id = plan_meant(store, typed)
        told = store.directives.say(plan_id, order, words, now=time.time())
        plan = next(plan for plan, _, _ in store.plans.all() if plan.id == plan_id)
    return plan, told


def check(settings: Settings, typed: str, order: Order, reason: str) -> None:
    """Refuse, before anybody is asked, what :func:`say` would refuse. Raises: as that does."""
    checked_reason(reason)
    with opened(settings) as store:
        store.directives.check(plan_meant(store, typed), order)


def checked_reason(reason: str) -> str:
    """A reason as it is signed. Raises: BadOption."""
    words = " ".join(reason.split())
    if not words or len(words) > LONGEST_REASON or not is_plain(words):
        raise BadOption(
            problem=f"a reason is one line of 1 to {LONGEST_REASON} characters that can be shown; every "
            "hospital of the study reads it"
        )
    return words
