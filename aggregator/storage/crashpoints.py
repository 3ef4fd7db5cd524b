"""Places where a test kills the process: before and after everything that must survive a power cut.

Set ``MEDVEIL_CRASH_AT=NAME:before`` or ``NAME:after`` (``:N`` behind it for the N-th time) and the process
sends itself SIGKILL there. Without the variable a step costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

VARIABLE = "MEDVEIL_CRASH_AT"
STEPS = frozenset(
    """
    blob.write blob.sync blob.rename blob.sync-folder blob.forget
    commit.add_token commit.enrol commit.add_plan commit.finish_plan commit.add_approval
    commit.add_amended commit.take_over
    commit.add_refusal commit.say_directive commit.open_attempt commit.add_event commit.end_attempt
    nonce.keep
    commit.begin_log commit.lead commit.probe commit.restored
    key.write key.rename key.sync-folder commit.change_admin_key
    commit.add_api_token commit.revoke_api_token commit.revoke commit.grant commit.withdraw
    commit.add_way_in commit.sign_in commit.use_session commit.end_session
    commit.note_ledger commit.together
    """.split()
)
"""Every step of the program; a test goes through all of them, and no other name is accepted."""


@dataclass
class _Armed:
    name: str
    when: str
    left: int

    def reach(self, name: str, when: str) -> None:
        if (name, when) == (self.name, self.when):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _parsed(text: str) -> _Armed | None:
    if not text:
        return None
    name, when, *number = text.split(":")
    if name not in STEPS or when not in ("before", "after"):
        raise ValueError(f"{VARIABLE}={text} names no step; known are {', '.join(sorted(STEPS))}")
    return _Armed(name, when, int(number[0]) if number else 1)


_armed = _parsed(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """What the variable does, in a process that runs already."""
    global _armed
    _armed = _parsed(text)


@contextmanager
def step(name: str) -> Iterator[None]:
    """The block between the two places "before" and "after" of this name."""
    if name not in STEPS:
        raise ValueError(f"the step {name} is not listed in aggregator/storage/crashpoints.py")
    if _armed is not None:
        _armed.reach(name, "before")
    yield
    if _armed is not None:
        _armed.reach(name, "after")


def steps(prefix: str) -> Callable[[str], AbstractContextManager[None]]:
    """The steps of a durable write (:mod:`medveil.files`) as ``prefix.write``, ``prefix.sync`` and so on."""
    return lambda name: step(f"{prefix}.{name}")
