"""Plans on offer: asked for now and then, shown, and approved as they were shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from hospital_node import operator
from hospital_node.cohort import ImagesFolder
from hospital_node.page.cards import card_of
from hospital_node.page.values import Card, Requests, Trouble
from hospital_node.roster_changes import change_of
from hospital_node.settings import Node
from medveil.errors import Error, SystemRefused
from medveil.spoken import means, spoken
from privacy.dp.policy import Split

EVERY_S = 300.0
"""Between two questions to the aggregator while somebody looks at the page."""


class ShownOtherwise(Error):
    """Between a plan's card and its approval the images have changed."""

    code = "page-shown-otherwise"

    def __init__(self) -> None:
        super().__init__(
            what="The patients in the images folder are not those that the page has shown.",
            meaning="The plan was not approved: an approval freezes exactly what was seen.",
            remedy="Look at the request again; its numbers are those of now.",
        )


class OtherWords(Error):
    """The words that were typed belong to another plan."""

    code = "page-other-words"

    def __init__(self) -> None:
        super().__init__(
            what="The twelve words are not those of this plan.",
            meaning="Nothing was approved. If the admin read you these words, the plan here is another.",
            remedy="Compare all twelve again. If they differ, refuse this plan and tell the admin.",
        )


class Asking:
    """What the aggregator offers, as it told it last. A method may take long: call it in a thread."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.time) -> None:
        self._node, self._clock, self._lock = node, clock, Lock()
        self._told: tuple[object, ...] | None = None
        self.shown = Requests()
        """As it was shown last; replaced whole."""

    def due(self) -> bool:
        """Whether it is time to ask."""
        return self._clock() - self.shown.asked >= EVERY_S

    def look(self, *, again: bool = False) -> None:
        """Ask, and hold every plan against the policy, the budget and the images.

        Args:
            again: also if the aggregator says what it said before.
        """
        with self._lock:
            now = self._clock()
            try:
                told, _ = asyncio.run(operator.offers(self._node))
                if again or told != self._told:
                    self.shown = replace(self._read(asyncio.run(operator.on_offer(self._node))), asked=now)
                    self._told = told
                self.shown = replace(self.shown, asked=now, trouble=None)
            except (Error, OSError) as error:  # the authority's file may be gone
                named = error if isinstance(error, Error) else SystemRefused(error)
                self.shown = replace(self.shown, asked=now, trouble=Trouble.of(named))

    def _read(self, found: Sequence[operator.Standing | operator.Unreadable]) -> Requests:
        cards: list[Card] = []
        for one in found:
            if isinstance(one, operator.Standing):
                operator.remember_shown(self._node, one)
                before = operator.approved_before(self._node, one.plan)
                change = change_of(self._node, one.plan)
                cards.append(card_of(replace(one, before=before), self._node.settings, change))
        return Requests(
            cards=tuple(sorted(cards, key=lambda one: one.stands != "allowed")),
            unreadable=tuple(
                (one.number, Trouble.of(one.refusal)) for one in found if isinstance(one, operator.Unreadable)
            ),
            outdated=tuple(
                (spoken(bytes.fromhex(plan)), why) for plan, why in operator.outdated(self._node).items()
            ),
        )

    def card(self, plan: str) -> Card | None:
        """What was shown of a plan."""
        return next((one for one in self.shown.cards if one.plan == plan), None)

    def approve(self, plan: str, typed: str, patients: int | None = None) -> None:
        """Sign a plan, if the words are its own and its patients are those that were shown.

        Raises: OtherWords, ShownOtherwise, NotAFingerprint, NoSuchPlan and what else speaks against it.
        """
        with self._lock:
            card = self.card(plan)
            if card is None:
                raise operator.NoSuchPlan()
            if not means([typed], bytes.fromhex(plan)):
                raise OtherWords()
            images, chosen = ImagesFolder(), operator.shown_plan(self._node, [typed])
            found = operator.standing(self._node, chosen, patients=patients, images=images)
            if found.refusal is not None:
                raise found.refusal
            if found.patients is not None and card.patients != _counted(found.patients):
                self.shown = replace(self.shown, asked=0.0)
                self._told = None
                raise ShownOtherwise()
            declared = patients if found.patients is None else found.patients.declared
            operator.approve_plan(self._node, chosen, patients=declared, images=images)
            self.now_stands(chosen.id, "approved")

    def now_stands(self, plan: str, stands: str) -> None:
        """What the page shows until the aggregator is asked again."""
        cards = tuple(replace(one, stands=stands) if one.plan == plan else one for one in self.shown.cards)
        self.shown = replace(self.shown, cards=cards)
        self._told = None


def _counted(found: operator.Patients) -> dict[str, int]:
    return {split.value: found.cohort.count(split) for split in Split}
