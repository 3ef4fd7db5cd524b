"""What a request is, in the protocol's words, by its method and address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from medveil.identity import Body

MASKED = "masked-segment"
KINDS = {
    "advertise": "keys",
    "agree": "agreement",
    "unmask": "unmask-share",
    "abort": "giving-up",
    "enrol": "enrolment",
    "work": "poll",
}
"""Last part of an address → the word for it, where it is another one."""
MEANINGS = {
    "enrolment": "this node's name and public key, with the one-time token",
    "certificate": "the public half of a key for TLS",
    "approval": "this hospital's signature under a plan",
    "keys": "public keys of one attempt",
    "shares": "encrypted shares of this attempt's keys, one for each other hospital",
    "ready": "the word that this hospital's computation is done",
    MASKED: "a part of the update, covered by masks",
    "upload": "the signed list of the masked segments' hashes",
    "agreement": "a signature under the list of hospitals whose vectors arrived",
    "unmask-share": "the shares by which the sum is opened, never one hospital's part",
    "giving-up": "the promise never to open an attempt that failed",
    "ledger-end": "the number of the ledger's last row and a keyed hash",
    "letters": "blinded or sealed numbers for a keeper of pseudonyms: nobody can read who is meant",
    "refusal": "this hospital's no to a plan, and the reason that was typed",
    "requests": "requests without content, counted: polls, looks for plans, models fetched",
}
"""Kind → what such a request holds, for people."""
NOTES = frozenset({"answer", "requests", "started", "stopped", "alert", "person", "begun-anew"})
"""Kinds of entries that are no transmissions by themselves."""
_PLAN = re.compile(r"/plans/([0-9A-Za-z-]{1,80})")
_ATTEMPT = re.compile(r"/rounds/(\d{1,9})(?:/attempts/(\d{1,9}))?")
_SEGMENT = re.compile(r"/segments/(\d{1,9})$")
_WORD = re.compile(r"[a-z][a-z-]{0,39}")


@dataclass(frozen=True)
class Sent:
    """What a request is."""

    kind: str
    where: dict[str, str | int]
    """Plan, round, attempt and segment, as far as it is about one."""
    ledger: str
    """Where the ledger ends, if it tells that."""

    def quiet(self, body: Body) -> bool:
        """Whether it holds nothing but the question."""
        return not body and not self.ledger


def sent(method: str, target: str) -> Sent:
    """What a request is, by its method and its path with query."""
    parts = urlsplit(target)
    where: dict[str, str | int] = {}
    if plan := _PLAN.search(parts.path):
        where["plan"] = plan[1]
    if attempt := _ATTEMPT.search(parts.path):
        where["round"] = int(attempt[1])
        if attempt[2]:
            where["attempt"] = int(attempt[2])
    ledger = parse_qs(parts.query).get("ledger", [""])[0]
    if segment := _SEGMENT.search(parts.path):
        return Sent(MASKED, where | {"segment": int(segment[1])}, ledger)
    words = [word for word in parts.path.split("/") if _WORD.fullmatch(word)]
    last = words[-1] if words else "other"
    kind = KINDS.get(last, last)
    return Sent("ledger-end" if ledger and method == "GET" else kind, where, ledger)
