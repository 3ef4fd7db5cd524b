"""A simulation from its first round to its last: rounds, attempts, phases."""

from __future__ import annotations

import importlib.metadata
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medveil.errors import Error, RemoteProtocolError
from medveil.metrics import headline
from medveil.plan import Member, Plan
from medveil.progress import tell
from medveil.rounds import Phase, RoundKind
from medveil.strategies import advance, is_steered, spread
from medveil.study import Study
from medveil.tensors import Float32, model_hash
from medveil_research.simulation import theory
from medveil_research.simulation.aggregator import SAME_FOR_ALL, Gathering
from medveil_research.simulation.crew import Crew
from medveil_research.simulation.errors import BadSimulation, TooFewHospitals
from medveil_research.simulation.hands import Answer, Given, Told, Updates, identity_of, name_of, peak_bytes
from medveil_research.simulation.result import Costs, Dealt, RoundFacts, SimulationResult, Theory
from medveil_research.simulation.schedule import PHASES, Schedule, words_of
from medveil_research.simulation.splits import Split
from medveil_research.simulation.state import Folder, Reached, open_folder
from privacy.encoding import Aggregate, EncodingParams, Words, decode, params_for
from privacy.secagg.keys import Setting, setting_for
from privacy.secagg.server import BelowThreshold

MOST_HOSPITALS = 2000
"""As many as a plan may hold: the lanes of a vector and the roster of a plan end there."""
Heard = Callable[[SimulationResult], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be simulated."""

    study: Study
    start: Float32 = field(repr=False)
    hospitals: int
    split: Split
    data: Path | None
    updates: Updates
    masks: bool = True
    schedule: Schedule = field(default_factory=Schedule)
    rounds: int | None = None
    """Fewer than the study has."""
    seed: int = 0
    processes: int = 2

    @property
    def asked(self) -> dict[str, Any]:
        """What makes it this simulation and no other; the number of processes does not."""
        return {
            "study": self.study.hash.hex(),
            "hospitals": self.hospitals,
            "split": str(self.split),
            "data": "" if self.data is None else str(self.data.resolve()),
            "updates": self.updates,
            "masks": self.masks,
            "schedule": self.schedule.model_dump(mode="json"),
            "seed": self.seed,
        }

    @property
    def last(self) -> int:
        """The last round."""
        planned = self.study.training.rounds
        return planned if self.rounds is None else min(self.rounds, planned)


def check(request: Request) -> Study:
    """The study as it is simulated: its cohort has room for the hospitals, nothing else differs.

    Raises: BadSimulation, TooFewHospitals, BadSchedule.
    """
    study, hospitals = request.study, request.hospitals
    if hospitals > MOST_HOSPITALS:
        raise BadSimulation(problem=f"a plan holds at most {MOST_HOSPITALS:,} hospitals")
    masked, cohort = study.secure_aggregation, study.cohort
    least = max(cohort.min_hospitals, (hospitals + masked.colluders) // 2 + 1)
    if hospitals < least:
        raise TooFewHospitals(hospitals=hospitals, needed=least)
    if study.compression is not None or study.model.personal:
        raise BadSimulation(problem="the study has compression or weights that stay in the hospital")
    if request.updates == "train" and any(is_steered(study, n) for n in (1, study.training.rounds)):
        raise BadSimulation(
            problem=f"the strategy '{study.strategy.name}' steers each hospital by its own course"
        )
    if request.updates == "train" and request.data is None:
        raise BadSimulation(
            problem="there are no patients to train on",
            remedy="Name a data set with --data, or measure the protocol alone with --updates random.",
        )
    request.schedule.check(hospitals=hospitals, rounds=study.training.rounds)
    return _roomy(study, hospitals)


def _roomy(study: Study, hospitals: int) -> Study:
    cohort = study.cohort.model_copy(update={"max_hospitals": max(hospitals, study.cohort.max_hospitals)})
    graph = "hidden" if hospitals > 128 else study.secure_aggregation.mask_graph
    masked = study.secure_aggregation.model_copy(update={"mask_graph": graph})
    return study.model_copy(update={"cohort": cohort, "secure_aggregation": masked})


def simulate(request: Request, folder: Path, *, heard: Heard = lambda _: None) -> SimulationResult:
    """Play every round that is not over yet.

    Args:
        folder: of this simulation and no other; it goes on there.
        heard: is told the result so far after each attempt.
    Guarantees: whatever ends it costs at most the attempt that runs; no process is left behind.
    Raises: what :func:`check`, :func:`open_folder` and reading the data set raise; WorkerLost.
    """
    study = check(request)
    with ExitStack() as stack:
        home = stack.enter_context(open_folder(folder, request.asked))
        plan = _plan(study, home.key, request.hospitals)
        reached = home.reached(request.start)
        if reached.next[0] > request.last:
            return described(request, plan, reached.attempts, dealt=home.dealt(None))
        given = Given(
            plan,
            home.key,
            request.masks,
            request.updates,
            request.data,
            request.split,
            request.seed,
            home.scratch,
        )
        crew = stack.enter_context(closing(Crew(given, processes=request.processes)))
        dealt = home.dealt(crew.first("dealt"))
        attempts = list(reached.attempts)
        for facts in _rounds(request, plan, crew, home, reached):
            attempts.append(facts)
            heard(described(request, plan, tuple(attempts), dealt=dealt))
        return described(request, plan, tuple(attempts), dealt=dealt)


def _plan(study: Study, key: bytes, hospitals: int) -> Plan:
    members = [
        Member(index=i, name=name_of(i), public_key=identity_of(key, i).public_key.hex())
        for i in range(1, hospitals + 1)
    ]
    return Plan(study=study, roster=tuple(members))


def described(
    request: Request, plan: Plan, attempts: tuple[RoundFacts, ...], *, dealt: Dealt
) -> SimulationResult:
    """The result so far."""
    study, setting = plan.study, _setting(plan, 1, 1, b"\0" * 32)
    private = study.privacy.kind != "none"
    return SimulationResult(
        medveil=importlib.metadata.version("medveil"),
        study=study.name,
        study_hash=request.study.hash.hex(),
        task=study.task,
        headline=headline(study),
        hospitals=request.hospitals,
        rounds_planned=request.last,
        parameters=study.model.tensors.size,
        uploaded=study.uploaded,
        lane_bits=study.secure_aggregation.lane_bits,
        mask_graph=study.secure_aggregation.mask_graph,
        colluders=study.secure_aggregation.colluders,
        threshold=setting.threshold(request.hospitals),
        quorum=setting.quorum(request.hospitals),
        privacy=study.privacy.kind,
        stated_epsilon=getattr(study.privacy, "epsilon", None) if private else None,
        masks=request.masks,
        updates=request.updates,
        split=str(request.split),
        seed=request.seed,
        processes=request.processes,
        schedule=request.schedule,
        dealt=dealt,
        attempts=attempts,
    )


def _setting(plan: Plan, number: int, attempt: int, model: bytes) -> Setting:
    return setting_for(plan, number=number, attempt=attempt, kind=RoundKind.TRAIN, model=model)


def _rounds(request: Request, plan: Plan, crew: Crew, home: Folder, reached: Reached) -> Iterator[RoundFacts]:
    study, vector, state = plan.study, reached.vector, reached.state
    number, attempt = reached.next
    if attempt > study.attempts:
        number, attempt = number + 1, 1
    stuck = any(facts.closed is False for facts in reached.attempts)
    while number <= request.last and not stuck:
        one = _Attempt(request, plan, crew, home, number, attempt, vector)
        try:
            facts, mean = one.play()
        finally:
            one.close()
        if mean is not None:
            update = spread(study, mean, number=number)
            share = facts.survivors / request.hospitals
            vector, state = advance(study, vector, update, state, number=number, present=share)
            facts = facts.model_copy(update=_judged(crew, study, vector, number))
        home.keep(facts, vector, state)
        yield facts
        stuck = facts.closed is False  # its sum might still be opened, so no hospital starts from this model
        again = facts.outcome == "failed" and attempt < study.attempts
        number, attempt = (number, attempt + 1) if again else (number + 1, 1)


def _judged(crew: Crew, study: Study, vector: Float32, number: int) -> dict[str, Any]:
    epsilon = None
    if study.privacy.kind != "none":
        from privacy.dp.policy import cost

        epsilon = cost(study, rounds=number).epsilon_joint
    return {"figures": crew.first("judge", vector.tobytes()), "epsilon": epsilon}


@dataclass
class _Attempt:
    """One attempt at a round."""

    request: Request
    plan: Plan
    crew: Crew
    home: Folder
    number: int
    attempt: int
    vector: Float32

    def __post_init__(self) -> None:
        study, request = self.plan.study, self.request
        self.model = model_hash(self.vector, study.model.tensors)
        self.setting = _setting(self.plan, self.number, self.attempt, self.model)
        self.params = params_for(study, RoundKind.TRAIN, request.hospitals, self.number)
        self.gathering = Gathering(self.setting, self.params, self.home.scratch)
        self.absent = request.schedule.absent(
            hospitals=request.hospitals, number=self.number, attempt=self.attempt, seed=request.seed
        )
        self.left: dict[int, str] = {}
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.answered: Counter[str] = Counter()
        self.cpu_began, self.began = time.process_time(), time.monotonic()

    def close(self) -> None:
        self.gathering.close()

    def play(self) -> tuple[RoundFacts, Float32 | None]:
        """All phases; the weighted mean of the updates, None if it failed."""
        self.crew.each("begin", self.number, self.attempt, self.model, self.vector.tobytes())
        if not self.request.masks:
            return self._plain()
        try:
            for phase in PHASES:
                self._phase(phase)
                self.gathering.close_phase()
            return self._opened(self.gathering.unmask())
        except RemoteProtocolError as error:  # a process that died is no fault of the protocol
            return self._failed(error), None

    def _phase(self, phase: Phase) -> None:
        gathering = self.gathering
        invited = sorted(gathering.state.invited)
        asked = [i for i in invited if i not in self.left and not self._is_away(i, phase)]
        shown: bytes | Callable[[int], bytes] = self._shown
        if phase in SAME_FOR_ALL and asked:
            shown = gathering.shown(asked[0])
            gathering.count_shown(len(shown), len(asked))
        elif phase is not Phase.UPLOAD:
            shown = b""
        for done, answer in enumerate(self.crew.answers(phase.value, asked, shown), start=1):
            self._heard(phase, answer)
            tell(f"round {self.number}, {phase.value}", done, len(asked))

    def _shown(self, index: int) -> bytes:
        data = self.gathering.shown(index)
        self.gathering.count_shown(len(data))
        return data

    def _heard(self, phase: Phase, answer: Answer) -> None:
        self.cpu_s[phase.value] += answer.cpu_s
        self.answered[phase.value] += 1
        if answer.code:
            self.left[answer.index] = answer.code
            return
        self.gathering.take(answer.box)

    def _is_away(self, index: int, phase: Phase) -> bool:
        since = self.absent.get(index)
        return since is not None and PHASES.index(phase) >= PHASES.index(since)

    def _opened(self, total: Words) -> tuple[RoundFacts, Float32]:
        told, survivors = self.crew.told(), self.gathering.state.survivors
        aggregate = decode(total, self.params, hospitals=len(survivors), study=self.plan.study)
        changes: dict[str, Any] = {
            "wrong_words": int(np.count_nonzero(total != _sum_of_words(told))),
            "check_word": self.crew.fits(total.tobytes(), survivors),
            "neighbours": sum(one.neighbours for one in told) / max(1, len(survivors)),
            "masking_s": sum(one.masking_s for one in told) / max(1, len(survivors)),
            "masks_removed": self.gathering.masks_removed,
            "theory": _theory(self.setting, self.params, self.gathering, aggregate.total_weight),
        }
        return self._done(aggregate, told, changes), aggregate.mean

    def _plain(self) -> tuple[RoundFacts, Float32 | None]:
        """Without keys, shares and masks: the sum of the vectors that would have been masked."""
        everybody = range(1, self.request.hospitals + 1)
        asked = [i for i in everybody if not self._is_away(i, Phase.UPLOAD)]
        for done, answer in enumerate(self.crew.plain(asked), start=1):
            self._heard(Phase.UPLOAD, answer)
            tell(f"round {self.number}, plain", done, len(asked))
        told = self.crew.told()
        hospitals, needed = sum(one.hospitals for one in told), self.setting.least(len(everybody))
        if hospitals < needed:
            return self._failed(BelowThreshold(phase=Phase.UPLOAD, got=hospitals, need=needed)), None
        aggregate = decode(_sum_of_words(told), self.params, hospitals=hospitals, study=self.plan.study)
        return self._done(aggregate, told, {"survivors": hospitals}), aggregate.mean

    def _done(self, aggregate: Aggregate, told: list[Told], changes: dict[str, Any]) -> RoundFacts:
        """What became of it, and how far the mean lies from the exact one."""
        off = np.abs(aggregate.mean.astype(np.float64) - _sum_of_updates(told) / aggregate.total_weight)
        changes |= {
            "error": float(off.max(initial=0.0)),
            "error_rms": float(np.sqrt(np.mean(np.square(off)))) if off.size else 0.0,
            "peak_bytes": peak_bytes() + sum(one.peak_bytes for one in told if self.request.processes),
        }
        return self._facts("done").model_copy(update=changes)

    def _failed(self, error: Error) -> RoundFacts:
        phase, closed = self.gathering.state.phase, None
        if self.request.masks and self.gathering.give_up():
            self._vows()
            closed = self._is_closed()
        told = self._facts("failed")
        return told.model_copy(update={"reason": error.code, "phase": phase.value, "closed": closed})

    def _vows(self) -> None:
        """Everybody who was away has come back by now, and gives the attempt up."""
        for answer in self.crew.vows(sorted(self.gathering.state.invited)):
            if not answer.code:
                self.gathering.take(answer.box)

    def _is_closed(self) -> bool:
        try:
            self.gathering.close_phase()
        except BelowThreshold:
            return False
        return self.gathering.state.phase is Phase.FAILED

    def _facts(self, outcome: Any) -> RoundFacts:
        state, asked = self.gathering.state, self.answered
        share = {kind: max(1, asked[_PHASE_OF[kind]]) for kind in self.gathering.up}
        return RoundFacts(
            round=self.number,
            attempt=self.attempt,
            outcome=outcome,
            absent=words_of(self.absent),
            left=dict(Counter(self.left.values()) + self.gathering.refused),
            advertised=len(state.advertised),
            committed=len(state.committed),
            survivors=len(state.survivors),
            unmasked=len(state.unmasked),
            seconds=time.monotonic() - self.began,
            aggregator_s=(time.process_time() - self.cpu_began) if self.request.processes else 0.0,
            costs=Costs(
                cpu_s={phase: spent / max(1, asked[phase]) for phase, spent in self.cpu_s.items()},
                up={kind: count / share[kind] for kind, count in self.gathering.up.items()},
                down={phase: n / max(1, asked[phase]) for phase, n in self.gathering.down.items()},
            ),
        )


_PHASE_OF = {
    "advertise": "advertise",
    "shares": "share",
    "ready": "commit",
    "upload": "upload",
    "vector": "upload",
    "agree": "agree",
    "unmask": "unmask",
    "abort": "abort",
}
"""Kind of a message → the phase that it answers."""


def _theory(setting: Setting, params: EncodingParams, gathering: Gathering, weight: int) -> Theory:
    state = gathering.state
    advertised, survivors = sorted(state.advertised), state.survivors
    sizes = theory.bytes_of(setting, params, advertised=advertised, survivors=survivors)
    return Theory(
        vector_bytes=sizes.vector,
        message_bytes=sizes.up + sizes.down,
        neighbours=theory.neighbours(setting, len(advertised)),
        may_vanish=theory.may_vanish(setting, len(advertised)),
        disconnected_bits=theory.disconnected_bits(setting, len(advertised), len(survivors)),
        rounding=theory.rounding(params, hospitals=len(survivors), weight=weight),
        rounding_rms=theory.rounding_rms(params, hospitals=len(survivors), weight=weight),
    )


def _sum_of_words(told: list[Told]) -> Words:
    total = np.zeros(len(told[0].words) // 8, np.uint64)
    for one in told:
        np.add(total, np.frombuffer(one.words, np.uint64), out=total)
    return total


def _sum_of_updates(told: list[Told]) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = [np.frombuffer(one.updates, np.float64) for one in told]
    return np.asarray(np.sum(parts, axis=0))
