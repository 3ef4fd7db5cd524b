"""Where each hospital's privacy ledger ended, as the hospital told it: kept for it, in the audit log as well.

The aggregator cannot read it: a count, a number of rows and a keyed hash, signed by the hospital. A hospital
whose whole folder was set back to an older copy learns from it that rows are missing; so does a second copy
of the folder that somebody starts.
"""

from __future__ import annotations

import sqlalchemy as sa

from aggregator.storage.register import Party
from aggregator.storage.tables import SETTINGS
from aggregator.storage.transactions import Transactions
from medveil.errors import RemoteProtocolError
from medveil.messages import LedgerEnd


class LedgerBehind(RemoteProtocolError):
    """A hospital tells of an end that is older than one that it told before."""

    code = "ledger-behind"

    def __init__(self) -> None:
        super().__init__(
            what="This hospital's privacy ledger is older than, or another one than, what it told before.",
            meaning="Its folder was set back, or copied: patients could spend twice. It takes no part so.",
            remedy="Start the node that was running, or see 'medveil node ledger go-on'.",
        )


class LedgerEnds:
    """The newest end of each hospital."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._known: dict[str, str] = {}
        """What this process has written or read, so that a repeat costs no look at the database."""

    def start_over(self) -> None:
        """Forget what this process has written: a commit may or may not have happened."""
        self._known.clear()

    def newest(self, name: str) -> LedgerEnd | None:
        """What a hospital told last."""
        wanted = sa.select(SETTINGS.c.value).where(SETTINGS.c.key == _key(name))
        with self._transactions.read() as tx:
            text = tx.execute(wanted).scalar_one_or_none()
        return None if text is None else LedgerEnd.parse(text)

    def note(self, party: Party, text: str) -> None:
        """Keep an end, and its entry in the audit log, before anything that came with it is looked at.

        Raises: BadMessage, BadSignature, LedgerBehind.
        """
        if self._known.get(party.name) == text:
            return
        end = LedgerEnd.parse(text)
        end.check(party.public_key)
        key = {"key": _key(party.name)}
        with self._transactions.change("note_ledger", party.name) as change:
            held = change.select(sa.select(SETTINGS.c.value).where(SETTINGS.c.key == key["key"])).scalar()
            head = f"{end.count}.{end.number}.{end.mark.hex()}"
            if held is None:
                change.insert(SETTINGS, {**key, "value": text}, "ledger.noted", head=head)
            elif LedgerEnd.parse(held).follows(end):
                raise LedgerBehind()
            elif held != text:
                change.update(SETTINGS, key, {"value": text}, "ledger.noted", head=head)
        self._known[party.name] = text


def _key(name: str) -> str:
    return f"ledger/{name}"
