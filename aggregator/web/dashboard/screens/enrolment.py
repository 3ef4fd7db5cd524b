"""Enrolment: who was invited, who has come, and the fingerprints that people compare by telephone."""

from __future__ import annotations

from typing import Literal, get_args

from aggregator.storage.register import Role
from aggregator.web.dashboard.screen import Screen, View
from medveil.ids import fingerprint
from medveil.reports import Amount
from medveil.values import Frozen, Name

State = Literal["open", "expired", "taken-back", "enrolled", "revoked"]
ORDER: tuple[State, ...] = get_args(State)


class InvitationSeen(Frozen):
    """One name that was invited, or is enrolled with a key. A token itself is kept nowhere."""

    name: Name
    role: str
    state: State
    until: Amount | None = None
    """When an invitation ends, or did."""
    key: str = ""
    """Fingerprint of the key of whoever is enrolled."""


class EnrolmentSeen(Frozen):
    """Everybody who was asked in."""

    invitations: tuple[InvitationSeen, ...]
    as_of: Amount


def value(view: View) -> EnrolmentSeen:
    """All there ever were, those that wait first."""
    register = view.store.register
    found = {
        party.name: InvitationSeen(
            name=party.name,
            role=party.role,
            state="revoked" if party.revoked else "enrolled",
            key=fingerprint(party.public_key),
        )
        for party in register.enrolled_keys()
    }
    for token in register.enrol_tokens():
        if token.name not in found or found[token.name].key == "":  # the newest token counts
            state: State = "taken-back" if token.used else "open" if token.expires > view.now else "expired"
            until = None if token.used else token.expires
            found[token.name] = InvitationSeen(name=token.name, role=token.role, state=state, until=until)
    order = sorted(found.values(), key=lambda one: (ORDER.index(one.state), one.name))
    return EnrolmentSeen(invitations=tuple(order), as_of=view.now)


SCREENS = (
    Screen(
        "enrolment",
        "/enrolment",
        value,
        "medveil aggregator invitations",
        place=30,
        roles=(Role.ADMIN, Role.AUDITOR),
    ),
)
