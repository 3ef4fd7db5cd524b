"""``medveil aggregator audit export``, and the check of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import load
from medveil.ids import fingerprint
from medveil.shown import Screen, plain, warn

screen = Screen()


def export(
    folder: Folder = DEFAULT,
    to: Annotated[
        str, typer.Option(help="FILE, syslog+tls://HOST:PORT or syslog://HOST:PORT; else JSON lines here.")
    ] = "",
    since: Annotated[
        int | None, typer.Option(min=0, help="Begin after this entry; else where the last export ended.")
    ] = None,
    format: Annotated[Literal["jsonl", "syslog"], typer.Option(help="How a file is written.")] = "jsonl",
    authority: Annotated[
        Path | None, typer.Option(help="That signed the archive's certificate (PEM); else this machine's.")
    ] = None,
) -> None:
    """Hand the audit log on, whole and signed: to a file or an archive, from where it was left off."""
    from aggregator.telling import audit_export
    from medveil.errors import BadOption

    if not to:
        if format != "jsonl":
            raise BadOption(problem="--format syslog goes to a file or an archive: name it with --to")
        for line in audit_export.exported_lines(load(folder), since or 0):
            screen.json(line)
        return
    begin, end = audit_export.export_log(load(folder), to, since, format, authority)
    if begin == end:
        screen.say(f"Nothing new since entry {end}.")
        return
    screen.say(f"Entries {begin + 1} to {end} of the audit log are at {plain(to)}.")
    if "://" not in to:
        screen.say(
            "  Whoever has the file checks it: medveil aggregator audit verify --file FILE --admin-key …"
        )


def verify_exported(path: Path, admin_key: str, heads: list[str]) -> None:
    """Check an exported file alone, and say what follows."""
    from aggregator.auditlog import Head
    from aggregator.telling.audit_file import verify_file

    found = verify_file(path, admin_key=admin_key, heads=[Head.parse(head) for head in heads])
    screen.say(f"The file is whole: {found.entries} entries after entry {found.since}, chained and signed.")
    screen.say(f"  It ends with  {found.head}")
    for key in found.keys:
        screen.say(f"  signed with the key of fingerprint  {fingerprint(key)}")
    if not found.trusted:
        screen.say(warn("  Whose key that is, it cannot say itself:"), "compare it, or give --admin-key.")
    if not heads:
        screen.say(
            "  That its end is not cut off, a head that somebody else holds can show: --head NUMBER:HASH"
        )
