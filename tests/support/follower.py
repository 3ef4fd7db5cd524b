"""One node that follows a chain of versions: what it keeps on disk, and its own copy of the model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chain import Chain, Sum
from hospital_node.held_back import HeldBack
from hospital_node.journal import Journal
from hospital_node.lineage import Lineage, version_path
from hospital_node.personal import PersonalWeights
from medveil.errors import Error
from medveil.identity import Secret
from medveil.rounds import AttemptKey
from medveil.tensors import Float32
from privacy.secagg.messages import Published


class Hospital:
    """One node: what it keeps on disk, and its own copy of the model."""

    def __init__(self, chain: Chain, folder: Path, index: int = 1) -> None:
        self.chain, self.folder, self.index = chain, folder, index
        folder.mkdir(exist_ok=True)
        self.journal = Journal(folder / "journal.db")
        compressed = chain.plan.study.compression is not None
        self.held = HeldBack(folder, chain.plan, Secret(bytes(32))) if compressed else None
        self.personal = self._personal()
        self.lineage = self._lineage()

    def _personal(self) -> PersonalWeights | None:
        plan = self.chain.plan
        return PersonalWeights(self.folder, plan, Secret(bytes(32))) if plan.study.model.personal else None

    def _lineage(self) -> Lineage:
        return Lineage(self.chain.plan, self.folder, self.journal, self.chain, self.passed, index=self.index)

    def passed(self, published: Published, parent: bytes, summed: bool) -> None:
        """What the agent does with each version, where its study is compressed."""
        if self.held is not None:
            self.held.passed(published.round, parent, summed=summed)

    @property
    def path(self) -> Path:
        return version_path(self.folder, self.chain.plan)

    def restart(self) -> None:
        """A new process: keys that were in memory are gone."""
        self.personal = self._personal()
        self.lineage = self._lineage()

    def join(self, made: Sum) -> None:
        """What the agent does in an attempt: follow to its model, upload, sign the survivors."""
        context = made.checks[self.index].context
        asyncio.run(self.lineage.reach(context.model, number=context.round, attempt=context.attempt))
        self.lineage.remember(made.checks[self.index])
        signed = made.agreements.get(self.index)
        if signed is not None:
            key = AttemptKey(self.chain.plan.id, context.round, context.attempt)
            for start in self.journal.in_use(context.model, key.plan, self.lineage.came_from):
                self.journal.settle(start, b"a checked certificate")
            self.journal.join(key, model=context.model, came_from=self.lineage.came_from)
            self.journal.upload(key, advertised=tuple(made.checks))
            self.journal.note(key, "agree", signed.to_bytes().hex())

    def reach(
        self, number: int, model: bytes | None = None, *, told: tuple[int, bytes] | None = None
    ) -> Float32:
        """Follow to the model that a round names: the last honest one unless a test says otherwise."""
        named = self.chain.newest.model if model is None else model
        return asyncio.run(self.lineage.reach(named, number=number, attempt=1, told=told))

    def refuses(self, code: str, number: int, model: bytes | None = None) -> str:
        """Why the node refuses; the alarm then stands, and neither the truth nor a restart takes it away."""
        with pytest.raises(Error) as caught:
            self.reach(number, model)
        assert caught.value.code == code
        alarm = self.journal.alarm(self.chain.plan.id)
        assert alarm is not None
        assert alarm.code == code
        assert alarm.claimed == (self.chain.newest.model if model is None else model).hex()
        self.restart()
        for later in (number, number + 1):
            with pytest.raises(Error, match="nobody has looked") as again:
                self.reach(later)
            assert again.value.code == "broken-lineage"
        assert self.journal.alarm(self.chain.plan.id) == alarm
        return caught.value.what
