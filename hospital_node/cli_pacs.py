"""``medveil node pacs``: look what the PACS has, fetch it de-identified, see what is here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.errors import BadOption
from medveil.options import from_options
from medveil.shown import Screen, faint, good, plain, strong, warn

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from hospital_node.pacs.fetching import Outcome, Refusal, Wanted
    from hospital_node.pacs.peer import Pacs, Query
    from hospital_node.pacs.settings import PacsSettings
    from hospital_node.settings import Node

pacs = typer.Typer(no_args_is_help=True, help="The hospital's PACS: asked and read, never written to.")
screen, progress = Screen(), Screen(stderr=True)
MOST = 200
"""Rows of a table, or refusals, that are shown."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Options by which a PACS is reached."""

    pacs_user: Annotated[str, typer.Option(help="User at the PACS (DICOMweb).")] = ""
    pacs_password_file: Annotated[
        Path | None, typer.Option(help="File of mode 0600 with the password; asked for without it.")
    ] = None
    pacs_ca: Annotated[
        Path | None, typer.Option(help="Certificates of the hospital's own authority; the system's without.")
    ] = None
    pacs_certificate: Annotated[
        Path | None, typer.Option(help="This node's certificate with key, for a PACS that asks (dimse-tls).")
    ] = None
    pacs_proxy: Annotated[
        str, typer.Option(help="Proxy on the way to the PACS; the environment's is not used.")
    ] = ""
    pacs_title: Annotated[str, typer.Option(help="This node's own title, where the PACS speaks DIMSE.")] = (
        "MEDVEIL"
    )
    pacs_mb_s: Annotated[
        float | None, typer.Option(help="Most megabytes a second that are fetched; no limit without it.")
    ] = None
    pacs_hours: Annotated[
        str, typer.Option(help="When images may be fetched, e.g. 20:00-06:00; at any time without it.")
    ] = ""
    pacs_plain_http: Annotated[bool, typer.Option(help="Let the password cross the network without TLS.")] = (
        False
    )
    opt_out: Annotated[
        Path | None,
        typer.Option(help="CSV with patient_id or accession_number of those who said no."),
    ] = None

    def pacs_settings(self, address: str) -> PacsSettings:
        """What is kept of them. Raises: BadOption, PasswordShown, BadPacsList."""
        from pydantic import ValidationError

        from hospital_node.pacs.settings import PacsSettings
        from medveil.handed import problem_of

        try:
            made = PacsSettings(
                address=address.rstrip("/"),
                user=self.pacs_user,
                password_file=_absolute(self.pacs_password_file),
                authority=_absolute(self.pacs_ca),
                certificate=_absolute(self.pacs_certificate),
                proxy=self.pacs_proxy,
                title=self.pacs_title,
                most_mb_s=self.pacs_mb_s,
                hours=self.pacs_hours,
                opt_out=_absolute(self.opt_out),
                plain_http=self.pacs_plain_http,
            )
        except ValidationError as error:
            raise BadOption(problem=problem_of(error)) from error
        made.check()
        return made


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Options that say which series are meant."""

    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with accession_number, label and, if you like, split: these examinations only."
        ),
    ] = None
    column: Annotated[
        list[str], typer.Option(help="A further column of that CSV for the manifest; may be repeated.")
    ] = field(default_factory=list)
    modality: Annotated[str, typer.Option(help="Such as CR, DX or MR.")] = ""
    since: Annotated[str, typer.Option(help="First day, as 2024-01-31.")] = ""
    until: Annotated[str, typer.Option(help="Last day.")] = ""
    body_part: Annotated[str, typer.Option(help="Body part, such as CHEST; * stands for any letters.")] = ""
    description: Annotated[
        str, typer.Option(help="Words in the description of the series or examination; * as above.")
    ] = ""

    def query(self) -> Query:
        """Raises: BadOption."""
        from hospital_node.pacs.peer import Query

        return Query(
            modality=self.modality.strip().upper(),
            first_day=_day(self.since, "--since"),
            last_day=_day(self.until, "--until"),
            body_part=self.body_part,
            description=self.description,
        )

    def wanted(self, settings: PacsSettings, *, wait: bool = False) -> Wanted:
        """Raises: BadOption, BadPacsList."""
        from hospital_node.pacs.fetching import Wanted
        from hospital_node.pacs.lists import read_labels
        from hospital_node.pacs.throttle import Hours

        if self.labels is None and self.column:
            raise BadOption(problem="--column names a column of --labels, which is not there")
        return Wanted(
            query=self.query(),
            labels=None if self.labels is None else read_labels(self.labels, self.column),
            opted_out=settings.opted_out(),
            hours=Hours.of(settings.hours) if settings.hours else None,
            wait=wait,
        )


@dataclass(frozen=True, kw_only=True)
class Fetched(Selection):
    """What comes beside the images."""

    outlines: Annotated[
        str,
        typer.Option(
            help="Fetch outlines (DICOM SEG) too, those with these words in their description; * is any."
        ),
    ] = ""
    segment: Annotated[
        list[str],
        typer.Option(help='A segment of the outlines and its class, "anterior=1"; may be repeated.'),
    ] = field(default_factory=list)

    def wanted(self, settings: PacsSettings, *, wait: bool = False) -> Wanted:
        """Raises: BadOption, BadPacsList."""
        from hospital_node.pacs.outlines import Outlines, classes_of

        asked = bool(self.outlines.strip() or self.segment)
        outlines = Outlines(self.outlines, classes_of(self.segment)) if asked else None
        return replace(super().wanted(settings, wait=wait), outlines=outlines)


@dataclass(frozen=True, kw_only=True)
class ConnectOptions(Connection):
    """Options of ``medveil node pacs connect``."""

    address: Annotated[
        str,
        typer.Argument(
            help="https://pacs.example.org/dicom-web, or dimse://TITLE@pacs.example.org:104 (dimse-tls)"
        ),
    ] = ""
    folder: Folder = DEFAULT


@dataclass(frozen=True, kw_only=True)
class FindOptions(Selection):
    """Options of ``medveil node pacs find``."""

    folder: Folder = DEFAULT


@dataclass(frozen=True, kw_only=True)
class FetchOptions(Fetched):
    """Options of ``medveil node pacs fetch``."""

    wait: Annotated[bool, typer.Option("--wait", help="Wait for the hospital's hours to come.")] = False
    folder: Folder = DEFAULT


def connect(options: ConnectOptions) -> None:
    """Say where the PACS is and how it is reached, once; it is asked whether it lets this node in."""
    node = node_in(options.folder)
    from hospital_node.pacs import settings

    made = options.pacs_settings(options.address)
    made.connected().check()
    settings.save(node.folder, made)
    screen.say(good("PASSED"), " The PACS answers and lets this node in. Next: medveil node pacs find")


def find(options: FindOptions) -> None:
    """Count what the PACS has that fits, by modality, description and date. Nothing is fetched."""
    node = node_in(options.folder)
    from hospital_node.pacs import settings
    from hospital_node.pacs.fetching import Search

    made = settings.load(node.folder)
    wanted = options.wanted(made)
    with progress.waiting():
        search = Search(made.connected(), wanted)
        found = list(search.found())
    series = Counter((one.modality, _described(one.description), one.day[:4]) for one in found)
    images: Counter[tuple[str, str, str]] = Counter()
    for one in found:
        images[one.modality, _described(one.description), one.day[:4]] += one.count or 0
    rows = [(*key, f"{count:,}", f"{images[key]:,}") for key, count in sorted(series.items())]
    screen.table(("modality", "description", "year", "series", "images"), rows[:MOST], right=(3, 4))
    if len(rows) > MOST:
        screen.say(f"{len(rows) - MOST:,} more rows are not shown; narrow the query.")
    days = sorted(one.day for one in found if one.day)
    span = f", from {_shown_day(days[0])} to {_shown_day(days[-1])}" if days else ""
    people = len({one.patient for one in found})
    screen.say(f"{len(found):,} series of {people:,} patients{span}. Nothing was fetched.")
    _show_refusals(search.refusals)


def fetch(options: FetchOptions) -> None:
    """Fetch what fits and is not here yet, without identities, sealed; go on where an earlier run ended."""
    node = node_in(options.folder)
    from hospital_node.pacs import settings

    made = settings.load(node.folder)
    outcome = fetched(node, made, options.wanted(made, wait=options.wait))
    if outcome.ended is not None:
        raise outcome.ended
    raise typer.Exit(1 if outcome.refusals else 0)


def fetched(node: Node, settings: PacsSettings, wanted: Wanted, line: Pacs | None = None) -> Outcome:
    """One run, shown as it goes.

    Args:
        line: to the PACS, if there is one already.
    Raises: what says that the PACS cannot be asked at all.
    """
    from hospital_node.pacs.cleaning import cleaner
    from hospital_node.pacs.fetching import Fetching
    from hospital_node.pacs.store import store_of

    store = store_of(node)
    if wanted.labels is not None and wanted.labels.left:
        names = ", ".join(plain(name, 40) for name in wanted.labels.left[:20])
        screen.say(faint(f"Not taken from the list: {names} (--column NAME takes one)."))
    line = settings.connected() if line is None else line
    try:
        with progress.waiting():
            outcome = Fetching(line, store, wanted, cleaner(store.names)).run()
    finally:
        line.close()
    _show_outcome(outcome, node, store.images)
    return outcome


def status(folder: Folder = DEFAULT) -> None:
    """Show what is here of the PACS, what was refused and why; the PACS is not asked."""
    node = node_in(folder)
    from hospital_node.pacs import settings
    from hospital_node.pacs.store import DONE, store_of

    made, store = settings.load(node.folder), store_of(node)
    records = [record for _, record in store.records()]
    done = [record for record in records if record.state == DONE and not record.of]
    outlines = sum(record.state == DONE and bool(record.of) for record in records)
    torn = sum(not store.is_whole(record) for record in done)
    size = sum(sum(record.files.values()) for record in done)
    screen.fields(
        [
            (strong("PACS"), plain(made.address)),
            (strong("hours"), made.hours or "any"),
            (strong("limit"), f"{made.most_mb_s:g} MB/s" if made.most_mb_s else "none"),
            (strong("opt-out"), "a list is kept to" if made.opt_out else "no list was named"),
            (strong("here"), f"{len(done):,} series of {len({r.patient for r in done}):,} patients"),
            ("", f"{sum(r.count for r in done):,} images, {size / 1e6:,.1f} MB, sealed"),
        ]
    )
    by_modality = Counter(record.modality for record in done)
    for modality, count in sorted(by_modality.items()):
        screen.fields([("", f"{count:,} series of {modality or 'no modality'}")])
    if outlines:
        screen.fields([("", f"{outlines:,} of them with an outline")])
    refused = Counter(record.code for record in records if record.state != DONE)
    for code, count in refused.most_common():
        screen.fields([(warn("refused"), f"{count:,} series: {code}")])
    if torn:
        screen.fields([(warn("torn"), f"{torn:,} series are not whole; the next fetch brings them again")])


def _show_outcome(outcome: Outcome, node: Node, images: Path) -> None:
    screen.say(
        f"{outcome.fetched:,} series fetched ({outcome.instances:,} images), {outcome.kept:,} were here. "
        f"The manifest has {outcome.lines:,} lines."
    )
    if outcome.outlines:
        screen.say(f"{outcome.outlines:,} series have their outline (label_map).")
    if outcome.removed:
        screen.say(f"{outcome.removed:,} series of patients who have said no since were removed.")
    _show_refusals(outcome.refusals)
    if node.settings.data != images and outcome.lines:
        screen.say(f'To use them, write into node.json: "data": "{plain(images, 300)}"')


def _show_refusals(refusals: Sequence[Refusal]) -> None:
    """On a terminal each of them, with what to do; elsewhere, where others may read, their number only."""
    if not refusals:
        return
    by_code: dict[str, list[Refusal]] = {}
    for one in refusals:
        by_code.setdefault(one.problem.code, []).append(one)
    for code, several in by_code.items():
        first = several[0].problem
        screen.say(warn("refused"), f"{len(several):,}: {plain(first.what)}")
        if screen.is_terminal:
            for one in several[:MOST]:
                screen.say(f"    {plain(one.what, 100)}")
            if len(several) > MOST:
                screen.say(f"    and {len(several) - MOST:,} more")
        screen.fields([("  remedy", first.remedy), ("  code", code)], width=9)


def _described(text: str) -> str:
    return plain(text, 40) if text else "(none)"


def _shown_day(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:8]}" if len(day) == 8 else plain(day, 20)


def _day(text: str, option: str) -> dt.date | None:
    import datetime as dt

    if not text:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise BadOption(problem=f"{option} takes a day like 2024-01-31") from error


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


pacs.command()(from_options(connect))
pacs.command()(from_options(find))
pacs.command()(from_options(fetch))
pacs.command()(status)
