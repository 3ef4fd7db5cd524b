"""A real consortium as a researcher sees it: its studies, their rounds and figures, and their models."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from medveil.errors import Error
from medveil.ids import NAME
from medveil.plan import Plan
from medveil.progress import tell
from medveil.reports import PlanLine
from medveil.shown import plain
from medveil.spoken import COUNT, words_of
from medveil_research.enrolment import Enrolment
from medveil_research.extras import library
from medveil_research.options import FOLDER
from medveil_research.shared_study import SharedStudy

if TYPE_CHECKING:
    import pandas

LEAST_PREFIX = 4
"""Hexadecimal digits of a plan's hash, or words of it, by which it may be named: no fewer than."""


class NoSuchStudy(Error):
    """A researcher may read no study that goes by this."""

    code = "no-such-study"

    def __init__(self, *, typed: str, known: Sequence[str], researcher: str) -> None:
        near = difflib.get_close_matches(typed[:60].lower(), known, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        listed = f"Open to {plain(researcher)}: {', '.join(sorted(set(known)))}." if known else ""
        named = plain(typed, 60) if NAME.fullmatch(typed) else "STUDY"
        super().__init__(
            what=f"No study that is open to {plain(researcher)} goes by '{plain(typed, 100)}'.{hint}",
            meaning=listed
            or "No study is open to this researcher yet: each is opened by the admin, by name.",
            remedy=f"If it is another one, give the admin this line: {grant_line(researcher, named)}",
        )


class SeveralStudies(Error):
    """A name that more than one study goes by."""

    code = "several-studies"

    def __init__(self, *, typed: str, found: Sequence[PlanLine]) -> None:
        listed = ", ".join(
            f"{line.name} {line.plan[:8]} ({'finished' if line.finished else f'{line.rounds} rounds ended'})"
            for line in found[-20:]
        )
        super().__init__(
            what=f"{len(found)} studies go by '{plain(typed, 100)}': {listed}."
            if typed
            else f"{len(found)} studies are open to this researcher: {listed}.",
            meaning="Which one is meant decides what is shown, so none was taken.",
            remedy="Name it by the digits beside it.",
        )


def grant_line(researcher: str, study: str) -> str:
    """What the consortium's admin types to open a study to a researcher."""
    shown = f'"{study}"' if " " in study else study
    return f"medveil aggregator people grant {plain(researcher)} {shown}"


class Consortium:
    """A researcher's view of one consortium, over one connection.

    Nothing here changes anything at the aggregator. Use it in a ``with`` block, or call :meth:`close`.

    Args:
        folder: the one that ``medveil research enroll`` made.
    Raises: NotEnrolled, BadFile.
    """

    def __init__(self, folder: Path | str = FOLDER) -> None:
        self._enrolment = Enrolment.load(Path(folder))
        self._client = self._enrolment.client()
        self._plans: dict[str, Plan] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Consortium({self.name} at {self.address})"

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    @property
    def name(self) -> str:
        """The researcher's."""
        return self._enrolment.settings.name

    @property
    def address(self) -> str:
        """The aggregator's."""
        return self._enrolment.settings.aggregator

    def lines(self) -> tuple[PlanLine, ...]:
        """One line per study that is open to this researcher, oldest first. Raises: NoAnswer."""
        return self._client.plans()

    def studies(self) -> tuple[SharedStudy, ...]:
        """Every study that is open to this researcher, oldest first. Raises: NoAnswer, BadPlan."""
        return tuple(self._asked_for(self.lines()))

    def study(self, name: str = "") -> SharedStudy:
        """One study.

        Args:
            name: the study's, or the beginning of its plan's hash or words; may be left out if there is one.
        Raises: NoSuchStudy, SeveralStudies, NoAnswer, BadPlan.
        """
        (found,) = self._asked_for((self.line(name),))
        return found

    def line(self, name: str = "") -> PlanLine:
        """As :meth:`study`, without asking for more than the list."""
        known = self.lines()
        found = [line for line in known if _goes_by(line, name)]
        if len(found) > 1 and any(line.works for line in found):
            found = [line for line in found if line.works]  # of several rosters of one study
        if len(found) > 1:
            raise SeveralStudies(typed=name, found=found)
        if not found:
            raise NoSuchStudy(typed=name, known=[line.name for line in known], researcher=self.name)
        return found[0]

    def frame(self) -> pandas.DataFrame:
        """One row per study, oldest first. Raises: MissingLibrary, what :meth:`studies` raises."""
        return library("pandas").DataFrame([study.row() for study in self.studies()])

    def _asked_for(self, lines: Sequence[PlanLine]) -> Iterator[SharedStudy]:
        for number, line in enumerate(lines, 1):
            if line.plan not in self._plans:
                self._plans[line.plan] = self._client.plan(line.plan)
            yield SharedStudy(self._plans[line.plan], self._client.status(line.plan), self._client)
            tell("studies", number, len(lines))


def _goes_by(line: PlanLine, typed: str) -> bool:
    """Whether somebody may mean this plan; everything goes by an empty name."""
    text = typed.strip().lower()
    if text in ("", line.name):
        return True
    if re.fullmatch("[0-9a-f]+", text) and len(text) >= LEAST_PREFIX:
        return line.plan.startswith(text)
    words = re.split(r"[\s,.]+", text)
    return LEAST_PREFIX <= len(words) <= COUNT and words_of(bytes.fromhex(line.plan))[: len(words)] == tuple(
        words
    )
