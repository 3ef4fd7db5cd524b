"""All durable state but the blobs: one database, and what it holds by noun."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aggregator.storage.directives import Directives
from aggregator.storage.history import History
from aggregator.storage.ledgerends import LedgerEnds
from aggregator.storage.log import AuditLog
from aggregator.storage.past import Past
from aggregator.storage.plans import Plans
from aggregator.storage.register import Register
from aggregator.storage.sessions import Sessions
from aggregator.storage.transactions import Transactions
from medveil.identity import Identity


class Store:
    """An open database. Every method of its parts is one transaction.

    Args:
        where, signer, wall_clock: as :class:`Transactions` takes them.
    Raises: what Transactions raises. Every method raises StorageFailed if the database does not take or give
        what it should, NotLeading if this process had the lead and has lost it, and WrongAdminKey if it would
        write and another key signs the log by now.
    """

    def __init__(
        self, where: Path | str, signer: Identity, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.transactions = Transactions(where, signer, wall_clock=wall_clock)
        self.plans = Plans(self.transactions)
        self.register = Register(self.transactions)
        self.sessions = Sessions(self.transactions)
        self.log = AuditLog(self.transactions)
        self.past = Past(self.transactions)
        self.directives = Directives(self.transactions)
        self.history = History(self.transactions)
        self.ledger_ends = LedgerEnds(self.transactions)

    def close(self) -> None:
        """Give the database back, and the lead."""
        self.transactions.close()
