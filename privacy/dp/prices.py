"""What the rows of a ledger cost the patients who pay for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.accounts import Account
from privacy.dp.policy import Split, jointly
from privacy.dp.rows import MARKS, PROMISED, Entry, Row, State


def schedules(rows: Iterable[Row]) -> tuple[Entry, ...]:
    """Every schedule in full, and what was left of it when another cohort took its place."""
    return tuple(r.entry for r in rows if r.entry.state in PROMISED)


def charges(rows: Iterable[Row], plan: str | None = None) -> tuple[Entry, ...]:
    """The newest entry of every charge that is not void, in order of charging.

    Where the owner went on from an older copy, the schedules from before stand in place of their charges.
    """
    newest: dict[tuple[str, ...], Entry] = {}
    promised: list[Entry] = []
    for row in rows:
        e = row.entry
        if e.state in PROMISED:
            promised.append(e)
        elif e.state is State.RESTORED:
            newest = {(p.plan, p.dataset, p.split): p for p in promised}
        elif e.state not in MARKS:
            newest[e.plan, str(e.charge)] = e
    return tuple(e for e in newest.values() if e.state is not State.VOID and plan in (None, e.plan))


def total(
    entries: Iterable[Entry], delta: float, *, joint: bool, whose: Iterable[Account] | None = None
) -> float:
    """Epsilon of entries together, composed from raw events: of the account that it is largest for.

    Args:
        joint: count the noise of the other hospitals as far as each entry does; otherwise the own noise only,
            which holds against everybody.
        whose: the accounts. Without them one for each split: a patient stays in one, so what was released
            about the others says nothing about them.
    """
    known = list(entries)
    if whose is None:
        whose = [frozenset((e.dataset, split) for e in known) for split in Split]
    return max((accounting.epsilon(events, delta) for events in events_of(known, whose, joint)), default=0.0)


def within_cap(entries: Iterable[Entry], epsilon: float) -> float:
    """An epsilon over several plans with a filter: with all others they take no more than the largest cap."""
    known = list(entries)
    filtered = {e.plan for e in known if e.patient_mu is not None}
    return min(epsilon, max(e.cap for e in known)) if len(filtered) > 1 else epsilon


def events_of(entries: Sequence[Entry], whose: Iterable[Account], joint: bool) -> set[tuple[Event, ...]]:
    """What each account pays for: of a plan's schedules the first, for what the others say is part of it."""
    found = set()
    for account in whose:
        mine = list[Event]()
        for group in _by_plan(entries, account).values():
            paid = accounting.at_most([event for e in group for event in e.events], group[0].patient_mu)
            mine += [jointly(event, group[0].sharers if joint else 1) for event in paid]
        if mine:
            found.add(tuple(mine))
    return found


def _by_plan(entries: Iterable[Entry], account: Account) -> dict[tuple[str, Split], list[Entry]]:
    """Of each plan and split that an account pays for: its charges, or the first of its schedules."""
    found: dict[tuple[str, Split], list[Entry]] = {}
    for e in entries:
        known = found.get((e.plan, e.split), [])
        if (e.dataset, e.split) in account and not (known and e.state in PROMISED):
            found[e.plan, e.split] = [*known, e]
    return found
