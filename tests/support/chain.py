"""A chain of published versions, made by real hospitals without an aggregator: honest until a test lies."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hospital_node.line import AggregatorProblem
from hospital_node.lineage import CommittedCheck, OwnVersion
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.rounds import Phase, RoundKind
from medveil.strategies import advance, spread
from medveil.tensors import Float32, Update, model_hash, to_safetensors
from privacy.encoding import EncodingParams, Words, decode, encode_metrics, params_for
from privacy.secagg import node, server
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import (
    Advertised,
    Agree,
    Committed,
    Published,
    Survivors,
    committed_hash,
    transcript_of,
)
from unmasked import checked, encode
from world import SPEC, START, counts, make_plan, make_study, unit


def hospitals(count: int = 4) -> list[Identity]:
    return [Identity.generate(f"hospital-{i}") for i in range(1, count + 1)]


@dataclass
class Sum:
    """One attempt that every survivor agreed to."""

    published: Published
    data: bytes
    checks: dict[int, CommittedCheck]
    """Of every committed hospital."""
    agreements: dict[int, Agree]
    """What each survivor has signed."""


@dataclass
class Chain:
    """What an aggregator would serve. The masks are left out: they cancel exactly (tests/privacy)."""

    identities: list[Identity] = field(default_factory=hospitals)
    options: dict[str, Any] = field(default_factory=dict)
    sums: dict[int, Sum] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    file: bytes = to_safetensors(START, SPEC)

    def __post_init__(self) -> None:
        training = {"rounds": 5, "local_steps": 1, "learning_rate": 1.0}
        self.plan: Plan = make_plan(self.identities, make_study(**{"training": training} | self.options))
        self.versions = [OwnVersion(0, 0, START, {}, model_hash(START, SPEC))]

    @property
    def newest(self) -> OwnVersion:
        return self.versions[-1]

    def attempt(
        self,
        number: int,
        attempt: int = 1,
        *,
        parent: bytes | None = None,
        members: Sequence[int] = (),
        survivors: Sequence[int] = (),
        updates: dict[int, Float32] | None = None,
        lies: dict[int, Callable[[Words, EncodingParams], Words]] | None = None,
    ) -> Sum:
        """Real keys, shares, check keys and signatures of one attempt at a train round.

        Args:
            lies: what a hospital makes of its encoded update before it adds the check word that fits.
        """
        study, everybody = self.plan.study, range(1, len(self.identities) + 1)
        members = tuple(members or everybody)
        survivors = tuple(survivors or members)
        setting = setting_for(
            self.plan,
            number=number,
            attempt=attempt,
            kind=RoundKind.TRAIN,
            model=self.newest.model if parent is None else parent,
        )
        begun = {i: node.advertise(self._party(setting, i), secrets.token_bytes) for i in everybody}
        advertised = Advertised(messages=tuple(message for _, message in begun.values()))
        dealt = {i: node.share(begun[i][0], advertised, secrets.token_bytes) for i in everybody}
        transcript = transcript_of(advertised.messages)
        shown = server.ServerState(
            setting,
            Phase.UPLOAD,
            transcript=transcript,
            advertised={i: message for i, (_, message) in begun.items()},
            shared={i: message for i, (_, message) in dealt.items()},
            committed=members,
        )
        params = params_for(study, RoundKind.TRAIN, len(everybody))
        total, agreements, checks = np.zeros(params.words, np.uint64), {}, {}
        for i in members:
            seen = server.view(shown, i)
            assert isinstance(seen, Committed)
            state = node.commit(dealt[i][0], seen)
            checks[i] = CommittedCheck(setting.context, state.committed_hash, state.check_key)
            if i not in survivors:
                continue
            agreements[i] = node.agree(state, Survivors(members=survivors))[1]
            encoded = encode(
                self.sent(number, (updates or {}).get(i, unit(i))),
                params,
                weight=min(10, params.max_weight),
                metrics=encode_metrics(study, counts(study, i)) if params.metrics else np.zeros(0, np.uint64),
                random_bytes=secrets.token_bytes,
            )
            if i in (lies or {}):
                encoded = (lies or {})[i](encoded, params)
            total += checked(encoded, state.check_key, params, index=i)
        data = total.tobytes()
        published = Published(
            round=number,
            attempt=attempt,
            transcript=transcript,
            members=members,
            survivors=survivors,
            signatures={i: message.signature for i, message in agreements.items()},
            sum_hash=hashlib.sha256(data).digest(),
        )
        return Sum(published, data, checks, agreements)

    def sent(self, number: int, update: Float32) -> Update:
        """What a hospital sends of an update."""
        shortened = self.plan.study.public_map(number)
        return Update(update if shortened is None else shortened.forward(update))

    def grow(self, number: int, attempt: int = 1, **options: Any) -> Sum:
        """One more version, as an honest aggregator makes it."""
        made = self.attempt(number, attempt, **options)
        self.publish(made)
        return made

    def publish(self, made: Sum) -> None:
        """Make the next version of a sum and serve both."""
        study, published = self.plan.study, made.published
        params = params_for(study, RoundKind.TRAIN, len(self.identities))
        total = np.frombuffer(made.data, "<u8")
        mean = decode(total, params, hospitals=len(published.survivors), study=study).mean
        vector, state = advance(
            study,
            self.newest.vector,
            spread(study, mean, number=published.round),
            self.newest.state,
            number=published.round,
            present=len(published.survivors) / len(self.identities),
        )
        version = self.newest.version + 1
        self.sums[version] = made
        self.versions.append(OwnVersion(version, published.round, vector, state, model_hash(vector, SPEC)))

    def lie(self, version: int, *, data: bytes | None = None, **changes: Any) -> None:
        """Serve something else for a version; a changed sum gets its right hash."""
        made = self.sums[version]
        if data is not None:
            changes.setdefault("sum_hash", hashlib.sha256(data).digest())
        self.sums[version] = replace(
            made,
            published=made.published.model_copy(update=changes),
            data=made.data if data is None else data,
        )

    def sign_anew(self, version: int, signers: Sequence[int] = (), **changes: Any) -> None:
        """Serve a changed proof that hospitals have signed although they never would."""
        proof = self.sums[version].published.model_copy(update=changes)
        setting = setting_for(
            self.plan,
            number=proof.round,
            attempt=proof.attempt,
            kind=RoundKind.TRAIN,
            model=self.versions[version - 1].model,
        )
        u2_hash = committed_hash(setting.context, proof.transcript, proof.members)
        signatures = {}
        for i in signers or sorted(set(proof.survivors)):
            message = Agree(sender=i, committed_hash=u2_hash, survivors=proof.survivors)
            signed = message.signed_by(self.identities[i - 1], setting.context, proof.transcript)
            signatures[i] = signed.signature
        self.lie(version, **changes, signatures=signatures)

    def signatures(self, version: int) -> dict[int, bytes]:
        return self.sums[version].published.signatures

    def _party(self, setting: Any, index: int) -> node.Party:
        return node.Party(setting, index, self.identities[index - 1])

    # ---- what a node asks ----

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        self.asked.append("model")
        return self.file

    async def proof(self, plan: str, version: int) -> Published:
        self.asked.append(f"proof {version}")
        return self._find(version).published

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        self.asked.append(f"sum {version}")
        return self._find(version).data

    def _find(self, version: int) -> Sum:
        if version not in self.sums:
            raise AggregatorProblem(status=404, code="not-found", title="", detail="")
        return self.sums[version]
