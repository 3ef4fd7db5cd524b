"""A query → the series that fit, fetched one by one, looked at, de-identified and kept.

A series' instances pass through memory: looked at, cleaned, sealed, and only then written. What is wrong with
one series costs that series; what is wrong with the PACS ends the run, and the next one goes on from there.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hospital_node.pacs.admission import Admission
from hospital_node.pacs.lists import Labels, OptedOut
from hospital_node.pacs.outlines import Outlines, reduced
from hospital_node.pacs.peer import Examination, Pacs, Query, Series, found
from hospital_node.pacs.problems import (
    NotAPacs,
    OutlineElsewhere,
    OutsideHours,
    PacsUnreachable,
    SeriesGrew,
    SeriesIncomplete,
    SeriesRefused,
    SeveralOutlines,
    UnknownAccession,
)
from hospital_node.pacs.problems import (
    OptedOut as Refused,
)
from hospital_node.pacs.store import DONE, Record, Store
from hospital_node.pacs.throttle import Hours
from medveil.errors import Error
from medveil.log import get_logger
from medveil.progress import tell
from medveil.stopping import check_stopped
from medveil_imaging.sources.dicom.film import FILM_MODALITIES
from medveil_imaging.sources.raw import Unusable

Clean = Callable[[bytes], tuple[bytes, tuple[str, ...]]]
"""A DICOM file → the same without identities, and the codes of what was done. Raises: Unusable."""
TRIES = 2
"""A series that grew while it was fetched is fetched once more."""
IN_A_ROW = 3
"""A PACS that fails so often, one series after the other, has failed altogether."""
log = get_logger()


@dataclass(frozen=True)
class Wanted:
    """What shall come in, and what must not."""

    query: Query = field(default_factory=Query)
    labels: Labels | None = None
    """The examinations of a list only; without one everything that fits the query."""
    opted_out: OptedOut = field(default_factory=OptedOut)
    hours: Hours | None = None
    wait: bool = False
    """Whether to wait for the hours to come."""
    outlines: Outlines | None = None
    """Which outlines come with the images; None: none."""


@dataclass(frozen=True)
class Refusal:
    """One series or line that did not come in. For the operator's own terminal only."""

    what: str = field(repr=False)
    problem: Error


@dataclass
class Outcome:
    """What one run did."""

    fetched: int = 0
    kept: int = 0
    """Series that were here already."""
    instances: int = 0
    outlines: int = 0
    """Series that have an outline now."""
    removed: int = 0
    """Series that were removed because their patients said no."""
    lines: int = 0
    """Of the manifest."""
    refusals: list[Refusal] = field(default_factory=list)
    ended: Error | None = None
    """Why the run ended before its end."""


class Search:
    """What the PACS has of what is wanted, and what was left out and why."""

    def __init__(self, pacs: Pacs, wanted: Wanted) -> None:
        self._pacs, self._wanted = pacs, wanted
        self._failed_in_a_row = 0
        self.refusals: list[Refusal] = []

    def found(self) -> Iterator[Series]:
        """Without those who said no. Raises: what says that the PACS cannot be asked at all."""
        labels = self._wanted.labels
        if labels is None:
            yield from self._allowed(found(self._pacs, self._wanted.query))
            return
        for number, problem in labels.refused:
            self.refuse(f"line {number} of the list", problem)
        for done, accession in enumerate(labels.cells, start=1):
            check_stopped()
            try:
                there = list(found(self._pacs, self._wanted.query, accession))
                self.note_success()
            except (PacsUnreachable, NotAPacs) as error:
                self.note_failure(f"accession number {accession}", error)
                continue
            if not there:
                self.refuse(f"accession number {accession}", UnknownAccession())
            yield from self._allowed(there)
            tell("accession numbers looked up", done, len(labels.cells))

    def _allowed(self, there: Iterable[Series]) -> Iterator[Series]:
        for one in there:
            if self._wanted.opted_out.names(patient=one.patient, accession=one.accession):
                self.refuse(_called(one), Refused())
            else:
                yield one

    def refuse(self, what: str, problem: Error) -> None:
        """Note what did not come in."""
        self.refusals.append(Refusal(what, problem))
        log.warning("pacs.refused", code=problem.code)

    def note_success(self) -> None:
        """The PACS has answered."""
        self._failed_in_a_row = 0

    def note_failure(self, what: str, error: Error) -> None:
        """One question has failed. Raises: the error, if too many have, one after the other."""
        self.refuse(what, error)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= IN_A_ROW:
            raise error


class Fetching:
    """One run.

    Args:
        clean: takes the identities out of a data set (PS3.15).
        now: this machine's time of the day.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        pacs: Pacs,
        store: Store,
        wanted: Wanted,
        clean: Clean,
        *,
        now: Callable[[], dt.datetime] = dt.datetime.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pacs, self._store, self._wanted, self._clean = pacs, store, wanted, clean
        self._now, self._sleep = now, sleep
        self._search = Search(pacs, wanted)
        self.outcome = Outcome(refusals=self._search.refusals)

    def run(self) -> Outcome:
        """Fetch what is wanted and is not here.

        Guarantees: whatever ends it, the manifest names whole series only, and nobody who said no.
        """
        self.outcome.removed = self._store.remove_opted_out(self._wanted.opted_out, Refused.code)
        if self.outcome.removed:
            self._store.write_manifest()
        labels = self._wanted.labels
        if labels is not None:
            self._store.relabel(labels.cells)
        try:
            series = list(self._search.found())
            for done, one in enumerate(series, start=1):
                check_stopped()
                self._series(one)
                tell("series", done, len(series))
            if self._wanted.outlines is not None:
                self._outline(series, self._wanted.outlines)
        except Error as error:
            self.outcome.ended = error
        finally:
            self.outcome.lines = self._store.write_manifest()
        told = self.outcome
        log.info("pacs.fetched", count=told.fetched, total=told.fetched + told.kept, size=told.instances)
        return told

    def _series(self, series: Series) -> None:
        name = self._store.names.series(series.uid)
        record = self._store.record(name)
        if record is not None and record.state == DONE and self._is_here(record, series):
            self.outcome.kept += 1
            return
        self._wait_for_hours()
        try:
            self._fetch(name, series)
            self._search.note_success()
        except (SeriesRefused, Unusable) as error:
            self._store.refuse(name, error.code)
            self._search.refuse(_called(series), error)
            self._search.note_success()
        except (PacsUnreachable, NotAPacs) as error:
            self._search.note_failure(_called(series), error)

    def _is_here(self, record: Record, series: Series) -> bool:
        if not self._store.is_whole(record):
            return False
        return record.count == (self._pacs.count(series) if series.count is None else series.count)

    def _fetch(self, name: str, series: Series) -> None:
        """Raises: SeriesRefused, and what a PACS raises; then nothing of the series is kept."""
        told = series.count
        for attempt in range(1, TRIES + 1):
            arriving = self._store.arriving(name)
            try:
                record = self._received(series, arriving.add)
                count = self._pacs.count(series)
                if record.count == count:
                    self._store.keep(name, arriving, record)
                    self.outcome.fetched += 1
                    self.outcome.instances += count
                    return
            finally:
                arriving.abandon()  # what was kept has another name by now
            grew = told is not None and count != told
            if not grew or attempt == TRIES:
                raise SeriesGrew() if grew else SeriesIncomplete(came=record.count, told=count)
            told = count

    def _received(self, series: Series, add: Callable[[str, bytes], None]) -> Record:
        door, codes = Admission(series, self._wanted.opted_out), dict[str, None]()
        for data in self._pacs.instances(series):
            check_stopped()
            one = door.admitted(data)
            content, done = self._clean(data)
            codes |= dict.fromkeys(done)
            add(self._store.names.instance(one.uid), content)
        labels = self._wanted.labels
        return Record(
            state=DONE,
            patient=self._store.names.patient(door.patient) if door.count else "",
            accession=self._store.names.accession(series.accession),
            modality=series.modality,
            films=series.modality in FILM_MODALITIES,
            count=door.count,
            codes=tuple(codes),
            cells=dict(labels.cells.get(series.accession, {})) if labels is not None else {},
        )

    def _outline(self, series: Sequence[Series], chosen: Outlines) -> None:
        """Outlines of the series that are here, fetched anew: they are small, and may have been redrawn."""
        examinations: dict[str, list[Series]] = {}
        for one in series:
            if one.modality not in FILM_MODALITIES:
                examinations.setdefault(one.examination, []).append(one)
        for pictures in examinations.values():
            check_stopped()
            self._wait_for_hours()
            one = pictures[0]
            told = one.patient, one.accession, one.day, one.examination_description
            try:
                drawn = self._drawn(Examination(one.examination, *told), chosen)
                self._search.note_success()
            except (PacsUnreachable, NotAPacs) as error:
                self._search.note_failure(_called(one), error)
                continue
            for picture in pictures:
                self._keep_outline(picture, drawn.pop(picture.uid, []))
            for left in drawn:
                self._search.refuse(f"{_called(one)}: an outline of series {left}", OutlineElsewhere())

    def _drawn(self, examination: Examination, chosen: Outlines) -> dict[str, list[bytes]]:
        """Series → its outlines, cleaned."""
        drawn: dict[str, list[bytes]] = {}
        for told in self._pacs.series_of(examination):
            one = told.of(examination)
            if not chosen.fits(one):
                continue
            door = Admission(one, self._wanted.opted_out)
            try:
                for data in self._pacs.instances(one):
                    door.admitted(data)
                    plain, picture = reduced(data, chosen.classes)
                    drawn.setdefault(picture, []).append(self._clean(plain)[0])
            except (SeriesRefused, Unusable) as error:
                self._search.refuse(_called(one), error)
        return drawn

    def _keep_outline(self, picture: Series, drawn: Sequence[bytes]) -> None:
        name = self._store.names.series(picture.uid)
        own, record = f"{name}-outline", self._store.record(name)
        if record is None or record.state != DONE:
            return
        if len(drawn) != 1:
            self._store.forget(own)
            if drawn:
                self._store.refuse(own, SeveralOutlines.code)
                self._search.refuse(_called(picture), SeveralOutlines())
            return
        arriving = self._store.arriving(own)
        try:
            arriving.add(self._store.names.instance(picture.uid), drawn[0])
            kept = Record(state=DONE, patient=record.patient, accession=record.accession, modality="SEG")
            self._store.keep(own, arriving, kept.model_copy(update={"of": name, "count": 1}))
            self.outcome.outlines += 1
        finally:
            arriving.abandon()

    def _wait_for_hours(self) -> None:
        hours = self._wanted.hours
        if hours is None:
            return
        while (left := hours.seconds_until_open(self._now())) > 0:
            if not self._wanted.wait:
                raise OutsideHours(hours=str(hours))
            check_stopped()
            self._sleep(min(left, 60.0))


def _called(series: Series) -> str:
    """How the operator finds a series in the PACS."""
    parts = [series.modality, series.description or series.examination_description]
    named = " ".join(part for part in parts if part)
    return f"accession number {series.accession}: {named}" if series.accession else named
