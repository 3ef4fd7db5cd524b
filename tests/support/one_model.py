"""Every way in which an aggregator may lead hospitals through attempts that start from one model.

What a hospital does next follows from all that it has noted, by a rule that a test holds against the real
journal. Colluders have no rule and do everything. Keys, masks and signatures are left out;
``test_secagg_explore`` and ``test_one_sum_per_model`` have them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from hospital_node.journal import Journal
from hospital_node.steps import AlreadyDone, Start
from medveil.errors import LocalProtocolError
from medveil.rounds import AttemptKey, RoundKind
from oracle import OpenedSum, violations
from privacy.secagg.keys import Context, Setting

MODEL = b"m" * 32
Slot = tuple[str, int, int]
SLOTS: tuple[Slot, ...] = (("a", 1, 1), ("a", 1, 2), ("a", 2, 1), ("b", 1, 1))
"""The attempt, another one at the round, the next round, and another plan: all from one model."""
Members = tuple[int, ...]
Note = tuple[str, Slot, Members]
History = tuple[Note, ...]
Rule = Callable[[History, Note], bool]
"""Whether a hospital that has noted all this takes one more step."""


def rule_now(history: History, note: Note) -> bool:
    """The rule of this version: once a vector has left, nothing starts from its model until it is settled."""
    kind, slot, _ = note
    taken = {(k, s) for k, s, _ in history}
    joined = [s for k, s, _ in history if k == "join"]
    if kind == "join":
        later = all(s < slot for s in joined if s[0] == slot[0])
        return later and all(("settle", s) in taken for k, s in taken if k == "upload")
    if (kind, slot) in taken and kind != "settle":
        return False
    if kind == "upload":
        return bool(joined) and joined[-1] == slot and ("abort", slot) not in taken
    if kind == "unmask":
        return ("upload", slot) in taken and ("abort", slot) not in taken
    if kind == "abort":
        return slot in joined and ("unmask", slot) not in taken
    return True


def journal_lets(history: History, note: Note) -> bool:
    """What the real journal does."""
    journal = Journal(Path(":memory:"))
    try:
        for earlier in history:
            _note(journal, earlier)
        with suppress(LocalProtocolError):
            _note(journal, note)
            return True
        return False
    finally:
        journal.close()


def _note(journal: Journal, note: Note) -> None:
    kind, where, members = note
    key = AttemptKey(*where)
    if kind == "join":
        journal.join(key, model=MODEL)
    elif kind == "upload":
        journal.upload(key, advertised=members)
    elif kind == "unmask":
        journal.note(key, "unmask")
    elif kind == "abort":
        if journal.detail(key, "abort") is not None:
            raise AlreadyDone(reason="it has given it up")
        journal.give_up(key)
    else:
        journal.settle(Start(*where, MODEL, members), b"certificate")


def rule_before(history: History, note: Note) -> bool:
    """The rule of the version before: unmasked rounds are remembered, and nothing else."""
    kind, (plan, number, attempt), _ = note
    mine = [(k, s) for k, s, _ in history if s[0] == plan]
    if kind == "join":
        after = all(s[1:] < (number, attempt) for _, s in mine)
        return after and ("unmask", number) not in {(k, s[1]) for k, s in mine}
    return (kind, note[1]) not in {(k, s) for k, s, _ in history}


@dataclass(frozen=True)
class View:
    """One set of keys that was shown in an attempt, and what came of it."""

    slot: Slot
    advertised: Members
    survivors: Members
    unmasked: Members = ()


@dataclass(frozen=True)
class Scene:
    """All that has happened."""

    histories: tuple[History, ...]
    views: tuple[View, ...] = ()


@dataclass
class World:
    """The hospitals and the rule they keep.

    Args:
        colluders: so many of them, the last ones, have no rule.
        quorum_of_roster: whether signatures are counted from the roster, as now.
    """

    size: int
    least: int
    colluders: int
    rule: Rule = rule_now
    quorum_of_roster: bool = True
    found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        roster = dict.fromkeys(range(1, self.size + 1), b"k" * 32)
        context = Context(b"p" * 32, 1, 1, RoundKind.TRAIN, MODEL)
        self.setting = Setting(context, roster, min_hospitals=self.least, colluders=self.colluders)
        self.honest = range(1, self.size + 1 - self.colluders)

    @property
    def start(self) -> Scene:
        return Scene(((),) * len(self.honest))

    def moves(self, scene: Scene) -> Iterator[Scene]:
        """What the aggregator can do next, as the scenes after it."""
        for slot in SLOTS:
            for size in range(self.least, self.size + 1):
                for advertised in itertools.combinations(range(1, self.size + 1), size):
                    yield from self._held(scene, slot, advertised)
        for place in range(len(scene.views)):
            yield from self._opened_further(scene, place)
            yield from self._given_up(scene, place)

    def drawn(self, scene: Scene, draw: Random) -> Scene:
        """After a move that is drawn; the same scene if hospitals refuse it."""
        if not scene.views or draw.random() < 0.35:
            advertised = self._some(draw, range(1, self.size + 1), self.least)
            least = self._smallest(advertised)
            survivors = self._some(draw, advertised, least) if least <= len(advertised) else ()
            return self._held_by(scene, draw.choice(SLOTS), advertised, survivors) or scene
        place = draw.randrange(len(scene.views))
        if draw.random() < 0.7:
            index = draw.choice(scene.views[place].survivors)
            return next(self._opened_further(scene, place, (index,)), scene)
        return self._given_up_by(scene, place, self._some(draw, scene.views[place].advertised, 1)) or scene

    @staticmethod
    def _some(draw: Random, among: Sequence[int], least: int) -> Members:
        return tuple(sorted(draw.sample(sorted(among), draw.randint(least, len(among)))))

    def _held(self, scene: Scene, slot: Slot, advertised: Members) -> Iterator[Scene]:
        for size in range(self._smallest(advertised), len(advertised) + 1):
            for survivors in itertools.combinations(advertised, size):
                after = self._held_by(scene, slot, advertised, survivors)
                if after is not None:
                    yield after

    def _held_by(self, scene: Scene, slot: Slot, advertised: Members, survivors: Members) -> Scene | None:
        joined = self._all_note(scene, "join", slot, advertised, advertised) if survivors else None
        sent = joined and self._all_note(joined, "upload", slot, survivors, advertised)
        return sent and replace(sent, views=(*sent.views, View(slot, advertised, survivors)))

    def _smallest(self, advertised: Members) -> int:
        signers = self.setting.quorum(0) if self.quorum_of_roster else 0
        return max(self.setting.threshold(len(advertised)), signers, self.least)

    def _opened_further(self, scene: Scene, place: int, among: Members = ()) -> Iterator[Scene]:
        view = scene.views[place]
        for index in among or view.survivors:
            if index not in view.unmasked:
                after = self._all_note(scene, "unmask", view.slot, (index,), view.advertised)
                if after is not None:
                    opened = replace(view, unmasked=(*view.unmasked, index))
                    yield replace(after, views=(*after.views[:place], opened, *after.views[place + 1 :]))

    def _given_up(self, scene: Scene, place: int) -> Iterator[Scene]:
        view = scene.views[place]
        for size in range(1, len(view.advertised) + 1):
            for some in itertools.combinations(view.advertised, size):
                after = self._given_up_by(scene, place, some)
                if after is not None:
                    yield after

    def _given_up_by(self, scene: Scene, place: int, some: Members) -> Scene | None:
        view = scene.views[place]
        after = self._all_note(scene, "abort", view.slot, some, view.advertised)
        return after and self._settled(after, view)

    def _settled(self, scene: Scene, view: View) -> Scene:
        """Everybody who was shown these keys is shown the vows; colluders vow whatever they are asked to."""
        vowed = {i for i in view.advertised if i not in self.honest}
        vowed |= {i for i in self.honest if ("abort", view.slot) in {n[:2] for n in scene.histories[i - 1]}}
        if len(vowed & set(view.advertised)) < self.setting.closing(len(view.advertised)):
            return scene
        holders = [i for i in view.advertised if i in self.honest and self._has_left(scene, i, view)]
        return self._all_note(scene, "settle", view.slot, tuple(holders), view.advertised) or scene

    def _has_left(self, scene: Scene, index: int, view: View) -> bool:
        return ("upload", view.slot, view.advertised) in scene.histories[index - 1]

    def _all_note(
        self, scene: Scene, kind: str, slot: Slot, indices: Members, advertised: Members
    ) -> Scene | None:
        """The scene after all these hospitals have taken a step; None if one of them refuses."""
        histories = list(scene.histories)
        for index in indices:
            if index in self.honest:
                note, before = (kind, slot, advertised), histories[index - 1]
                if not self.rule(before, note):
                    return None
                histories[index - 1] = (*before, note)
        return replace(scene, histories=tuple(histories))

    def check(self, scene: Scene) -> None:
        """Remember what these sums show that they must not."""
        sums = []
        for view in scene.views:
            shares = set(view.unmasked) | {i for i in view.survivors if i not in self.honest}
            if len(shares) >= self.setting.threshold(len(view.advertised)):
                names = frozenset(str(i) for i in view.survivors)
                sums.append(OpenedSum(view.slot, MODEL, names))
        honest = [str(i) for i in self.honest]
        self.found |= violations(sums, honest=honest, least=self.least - self.colluders)
