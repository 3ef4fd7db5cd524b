"""The node's own copy of the global model. It moves by published sums that this node has checked.

It starts at the initial model of the approved plan. For each version after that the node fetches the proof
and the sum, checks that the survivors signed for exactly this attempt and parent model, checks the sum itself
where this hospital is in it, decodes, and makes the strategy's step. What comes out must be the model that
the round names. docs/protocol.md ("Publish and lineage") says what this proves and for whom.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hospital_node.contribution import CommonCourse
from hospital_node.journal import Alarm, Journal
from hospital_node.line import AggregatorProblem, VersionSource, decoded
from medveil.errors import RemoteProtocolError
from medveil.files import replace_durably
from medveil.identity import BadSignature, Secret
from medveil.ids import canonical
from medveil.log import get_logger
from medveil.outside import decode_cbor
from medveil.parts import in_round
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.strategies import COMMON, Diverged, State, advance, is_steered, spread
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors, largest_file, model_hash
from privacy.encoding import SpoiledSum, Words, decode, params_for
from privacy.secagg.checkword import AlteredSum, verify_sum
from privacy.secagg.keys import PROTOCOL, PROTOCOL_1, Context, Setting, setting_for
from privacy.secagg.messages import Agree, Published, committed_hash

T = TypeVar("T")
log = get_logger()


class WrongModel(RemoteProtocolError):
    """The aggregator served another model than the one it named."""

    code = "wrong-model"

    def __init__(self) -> None:
        super().__init__(
            what="The global model does not have the hash that the round names.",
            meaning="A model made for this hospital alone could pry on its patients; nothing was trained.",
            remedy="Tell the consortium's admin.",
        )


class BrokenLineage(RemoteProtocolError):
    """A model that does not follow from the sums of the hospitals' updates."""

    code = "broken-lineage"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The global model does not follow from the published sums: {reason}.",
            meaning="It may have been made to pry on patients. This node trains nothing more for this plan.",
            remedy="Run 'medveil node lineage', compare with another hospital by telephone, tell the admin.",
        )
        self.reason = reason


@dataclass(frozen=True)
class CommittedCheck:
    """What a hospital of a committed set keeps, in memory only, until the sum is published."""

    context: Context
    committed_hash: bytes
    check_key: Secret


@dataclass(frozen=True)
class OwnVersion:
    """A model version that this node has made itself."""

    version: int
    """0 is the initial model."""
    round: int
    """The round it came out of; 0 for the initial model."""
    vector: Float32
    state: State
    model: bytes
    """The model's hash."""
    epoch: int = 1
    """Of the plan whose hospitals' sum it came out of; of the first plan for the initial model."""
    summed: int = 0
    """Of a steered study, or one with personal weights: the last round that trained whose sum has this
    hospital's update; 0: none yet."""


def load_version(path: Path, study: Study) -> OwnVersion | None:
    """The version that :func:`keep_version` wrote; None if there is none or the file is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(memoryview(data)[32:]).digest() != data[:32]:
        return None
    size = int.from_bytes(data[-8:], "little")
    try:
        version, number, lengths, *rest = decode_cbor(data[-8 - size : -8])
    except (ValueError, TypeError):
        return None
    vectors, place = {}, 32
    for name, length in lengths:
        vectors[name] = np.frombuffer(data, "<f4", length, place)
        place += 4 * length
    vector = vectors.pop("")
    if vector.shape != (study.model.tensors.size,):
        return None  # another study's file
    summed, epoch = (rest[0] if rest else 0), (rest[1] if len(rest) > 1 else 1)
    name = model_hash(vector, study.model.tensors)
    return OwnVersion(version, number, vector, vectors, name, epoch, summed)


def keep_version(path: Path, own: OwnVersion) -> None:
    """Write hash, vectors, and what they are; a crash leaves the old file or the new one. Raises: OSError."""
    vectors = {"": own.vector, **own.state}
    parts_of_it = [[k, len(v)] for k, v in vectors.items()]
    told = [own.summed, own.epoch] if own.epoch > 1 else [own.summed] if own.summed else []
    index = canonical([own.version, own.round, parts_of_it, *told])
    parts = [np.ascontiguousarray(v, "<f4").data.cast("B") for v in vectors.values()]
    parts += [memoryview(index), memoryview(len(index).to_bytes(8, "little"))]
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_durably(path, hasher.digest(), *parts, private=True)


def check_proof(published: Published, plan: Plan, parent: OwnVersion, *, before: int) -> Setting:
    """Hold a version's proof against the roster and the parent that this node has made itself.

    Args:
        before: the round that is to start from a later version.
    Returns: the attempt's setting.
    Guarantees: a quorum of the roster, hospitals of the committed set, signed exactly these survivors, in a
        train attempt of this plan that started from ``parent``, after the round that ``parent`` came from.
        Of an attempt under the first version of the protocol: a quorum of the committed set, as it was then.
    Raises: BrokenLineage.
    """
    try:
        return _checked(published, plan, parent, before=before, protocol=PROTOCOL)
    except BrokenLineage as error:
        try:
            return _checked(published, plan, parent, before=before, protocol=PROTOCOL_1)
        except BrokenLineage:
            raise error from None


def _checked(
    published: Published, plan: Plan, parent: OwnVersion, *, before: int, protocol: bytes
) -> Setting:
    if not parent.round < published.round < before:
        raise BrokenLineage(reason="a version comes from a round that was not its turn")
    setting = setting_for(
        plan,
        number=published.round,
        attempt=published.attempt,
        kind=RoundKind.TRAIN,
        model=parent.model,
        protocol=protocol,
    )
    members, survivors = published.members, published.survivors
    ordered = all(list(s) == sorted(set(s)) for s in (members, survivors))
    if not ordered or not set(survivors) <= set(members) <= set(setting.roster):
        raise BrokenLineage(reason="a version's hospitals are not those of the plan")
    if len(survivors) < setting.least(len(members)):
        raise BrokenLineage(reason="a version sums too few hospitals")
    u2_hash = committed_hash(setting.context, published.transcript, members)
    if not set(published.signatures) <= set(survivors):
        raise BrokenLineage(reason="a signature comes from a hospital that is not in the sum")
    for signer, signature in published.signatures.items():
        agreement = Agree(sender=signer, signature=signature, committed_hash=u2_hash, survivors=survivors)
        try:
            agreement.check(setting.roster[signer], setting.context, published.transcript)
        except BadSignature as error:
            raise BrokenLineage(reason="a signature is not for these hospitals, round and parent") from error
    if len(published.signatures) < setting.quorum(len(members)):
        raise BrokenLineage(reason="too few hospitals signed for a version")
    return setting


def make_next(
    plan: Plan,
    parent: OwnVersion,
    published: Published,
    data: bytes,
    check_key: Secret | None,
    *,
    index: int | None = None,
) -> OwnVersion:
    """The version that follows from a sum.

    Args:
        index: this hospital's in the roster.
        data: the sum as it was served.
        check_key: of the attempt's committed set; None if this hospital is not in it, or has lost its keys.
    Raises: BrokenLineage; AlteredSum if the check word in the sum does not fit.
    """
    study = in_round(plan.study, RoundKind.TRAIN)
    params = params_for(study, RoundKind.TRAIN, len(plan.roster), published.round)
    if len(data) != 8 * params.words or hashlib.sha256(data).digest() != published.sum_hash:
        raise BrokenLineage(reason="a sum is not the one that its proof names")
    total: Words = np.frombuffer(data, "<u8")
    if check_key is not None:
        verify_sum(total, check_key, params, survivors=published.survivors)
    try:
        aggregate = decode(total, params, hospitals=len(published.survivors), study=study)
        vector, state = advance(
            study,
            parent.vector,
            spread(study, aggregate.mean, number=published.round),
            parent.state,
            number=published.round,
            present=len(published.survivors) / len(plan.roster),
        )
    except (SpoiledSum, Diverged) as error:
        raise BrokenLineage(reason="a sum that no honest hospitals can add up to") from error
    name = model_hash(vector, study.model.tensors)
    own = is_steered(study, published.round) or bool(study.model.personal)
    summed = published.round if own and index in published.survivors else parent.summed
    return OwnVersion(parent.version + 1, published.round, vector, state, name, plan.epoch, summed)


class Lineage:
    """One plan's model at this node.

    Args:
        folder: where the own version is kept.
        passed: hears of each version that was made, of the model before it, and whether this hospital is in
            its sum; at the latest when it is kept.
        index: this hospital's in the roster.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        journal: Journal,
        source: VersionSource,
        passed: Callable[[Published, bytes, bool], None] = lambda *_: None,
        *,
        index: int | None = None,
    ) -> None:
        self._plan, self._journal, self._source, self._passed = plan, journal, source, passed
        self._key = None if index is None else next(m.public_key for m in plan.roster if m.index == index)
        self._path = version_path(folder, plan)
        self._own: OwnVersion | None = None
        self._on_disk = b""
        """The model of the version in the file."""
        self._check: CommittedCheck | None = None
        self._invited: tuple[bytes, tuple[int, int, int]] | None = None
        """The last attempt that this node was asked into, and the model it started from."""

    @property
    def came_from(self) -> int:
        """The round that the own version came out of; 0 for the initial model, or before it is there."""
        return 0 if self._own is None else self._own.round

    @property
    def made_in(self) -> int:
        """The epoch whose hospitals made the own version; of the first plan for the initial model."""
        return self._plan.epochs[-1].epoch if self._own is None else self._own.epoch

    @property
    def course(self) -> CommonCourse:
        """Of a steered study: what the next round goes by, beside the hospital's own course; of one with
        personal weights, whose these are."""
        own = self._own
        if own is None or COMMON not in own.state:
            still = np.zeros(self._plan.study.model.tensors.size, np.float32)
            return CommonCourse(still, 0 if own is None else own.summed)
        return CommonCourse(own.state[COMMON], own.summed)

    def remember(self, check: CommittedCheck) -> None:
        """This hospital sends its vector; with this the sum will be checked when it is published."""
        self._check = check

    def check_alarm(self) -> None:
        """Raises: BrokenLineage if an alarm of this plan waits for the operator."""
        for plan in self._plan.epochs:
            alarm = self._journal.alarm(plan.id)
            if alarm is None:
                continue
            raise BrokenLineage(reason=f"version {alarm.version} was refused, and nobody has looked yet")

    async def reach(
        self, model: bytes, *, number: int, attempt: int, told: tuple[int, bytes] | None = None
    ) -> Float32:
        """Go on from the own version, version by version, to the model that an attempt names.

        Args:
            number, attempt: the round and attempt that are to start from it.
            told: a version and what proves it, where that came with the attempt; others are asked for.

        Returns: the model, float32, shape (d,).
        Guarantees: the vector was computed here, from checked sums.
        Raises: BrokenLineage, AlteredSum: then an alarm stands in the journal, and every later call raises.
            WrongModel, BadModelFile, Unreachable, AggregatorProblem, BadMessage: nothing was changed.
        """
        self.check_alarm()
        own = self._own or await self._first()
        if own.model != model and self._plan.before is not None:
            own = await self._come_on(own)
        try:
            while own.model != model:
                own = await self._next(own, before=number, told=told)
        except (BrokenLineage, AlteredSum) as error:
            self._alarm(error, own, claimed=model)
            raise
        await self._keep(own)
        self._invited, self._check = (own.model, (self._plan.epoch, number, attempt)), None
        return own.vector

    async def begin(self) -> None:
        """Have the own version at hand before a round asks for it.

        Raises: WrongModel, BadModelFile, Unreachable, AggregatorProblem: nothing was changed.
        """
        await self._keep(self._own or await self._first())

    async def _first(self) -> OwnVersion:
        """The version on disk, or the plan's initial model."""
        found = await _aside(lambda: load_version(self._path, self._plan.study))
        self._on_disk = b"" if found is None else found.model
        return found or await self._initial()

    async def _come_on(self, own: OwnVersion) -> OwnVersion:
        """The version on disk, if the plan before this one has brought it further meanwhile."""
        found = await _aside(lambda: load_version(self._path, self._plan.study))
        if found is None or found.version <= own.version:
            return own
        self._on_disk = found.model
        return found

    async def _initial(self) -> OwnVersion:
        spec = self._plan.study.model.tensors
        name = bytes.fromhex(self._plan.study.model.initial_model)
        file = await self._source.model(self._plan.id, name.hex(), limit=largest_file(spec))
        vector = await _aside(lambda: from_safetensors(file, spec))
        if model_hash(vector, spec) != name:
            raise WrongModel()
        return OwnVersion(0, 0, vector, {}, name, self._plan.epochs[-1].epoch)

    async def _next(self, parent: OwnVersion, *, before: int, told: tuple[int, bytes] | None) -> OwnVersion:
        version = parent.version + 1
        if told is not None and told[0] == version:
            published = await decoded(Published, told[1])
        else:
            published = await self._proof(version)
        plan, setting = self._proved(published, parent, before=before)
        key = self._check_own_part(published, setting.context, plan)
        await self._keep(parent)  # threshold-many hospitals have started from it: there is no way back
        words = params_for(plan.study, RoundKind.TRAIN, len(plan.roster)).words
        data = await self._source.sum(self._plan.id, version, limit=8 * words)

        index = next((m.index for m in plan.roster if m.public_key == self._key), None)

        def made() -> OwnVersion:
            following = make_next(plan, parent, published, data, key, index=index)
            self._passed(published, parent.model, index in published.survivors)
            return following

        return await _aside(made)

    async def _proof(self, version: int) -> Published:
        try:
            return await self._source.proof(self._plan.id, version)
        except AggregatorProblem as problem:
            if problem.status != 404:
                raise
            raise BrokenLineage(reason="nothing leads from the own model to the named one") from problem

    def _proved(self, published: Published, parent: OwnVersion, *, before: int) -> tuple[Plan, Setting]:
        """The plan whose hospitals signed for a version: this one, or one that it follows. No way leads back.

        Raises: BrokenLineage.
        """
        refused: BrokenLineage | None = None
        for plan in self._plan.epochs:
            if parent.epoch <= plan.epoch and plan.first_round <= published.round:
                try:
                    return plan, check_proof(published, plan, parent, before=before)
                except BrokenLineage as error:
                    refused = refused or error
        raise refused or BrokenLineage(reason="a version comes from a round that was not its turn")

    def _check_own_part(self, published: Published, context: Context, plan: Plan) -> Secret | None:
        """The check key of this version's sum, if this node has it.

        Raises: BrokenLineage if the version contradicts what this hospital has been told or has signed.
        """
        key = (context.round, context.attempt)
        told = (plan.epoch, *key)
        if self._invited is not None and self._invited[0] == context.model and told < self._invited[1]:
            raise BrokenLineage(reason="a version comes from an attempt that had been given up")
        u2_hash = committed_hash(context, published.transcript, published.members)
        signed = self._journal.detail(AttemptKey(plan.id, *key), "agree")
        own = None if signed is None else Agree.from_bytes(bytes.fromhex(signed))
        if own is not None and (own.committed_hash, own.survivors) != (u2_hash, published.survivors):
            raise BrokenLineage(reason="a version sums other hospitals than this one agreed to")
        check = self._check
        if check is None or check.context != context:
            return None
        if check.committed_hash != u2_hash:
            raise BrokenLineage(reason="a version sums other hospitals than were committed")
        return check.check_key

    async def _keep(self, own: OwnVersion) -> None:
        self._own = own
        if self._on_disk == own.model:
            return
        try:
            await _aside(lambda: keep_version(self._path, own))
            self._on_disk = own.model
        except OSError:  # what was checked stays checked; after a restart it is fetched and checked again
            log.warning("lineage.unkept", plan=self._plan.id, version=own.version)

    def _alarm(self, error: RemoteProtocolError, own: OwnVersion, *, claimed: bytes) -> None:
        self._journal.raise_alarm(
            Alarm(self._plan.id, error.code, error.what, own.version, claimed.hex(), own.model.hex())
        )
        self._own, self._check = None, None
        log.error(
            "lineage.refused",
            plan=self._plan.id,
            version=own.version,
            code=error.code,
            reason=error.what,
        )


def version_path(folder: Path, plan: Plan) -> Path:
    """Where a plan's own version is kept; an amended plan goes on with that of the plan before it."""
    return folder / f"{plan.lineage}.head"


async def _aside(work: Callable[[], T]) -> T:
    """Big vectors are no work for the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
