"""``medveil aggregator people``: who may read what."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aggregator import settings as configuration
from aggregator.adminkey import open_store
from aggregator.storage.register import Register, Role
from medveil.errors import Error
from medveil.ids import fingerprint
from medveil.shown import Screen, plain
from medveil.spoken import LEAST_DIGITS, means, spoken, words_of

people = typer.Typer(help="Who may read what: API tokens of people, and the studies of each researcher.")
screen = Screen()
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The aggregator's folder.")]
DEFAULT = Path("aggregator-data")


class NoPlan(Error):
    """The admin named a plan that is not here."""

    code = "no-plan"

    def __init__(self, *, typed: str) -> None:
        super().__init__(
            what=f"No plan, or more than one, goes by '{plain(typed, 100)}'.",
            meaning="Nothing was changed.",
            remedy="Take its words or its hash from 'medveil aggregator study status'.",
        )


@people.command("add")
def people_add(
    name: Annotated[str, typer.Argument(help="The person, or the script that reads for them.")],
    role: Annotated[Role, typer.Option(help="What the token may read.")],
    folder: Folder = DEFAULT,
    days: Annotated[float, typer.Option(min=0.01, max=400, help="When the token expires.")] = 90.0,
    study: Annotated[list[str], typer.Option(help="A plan that a researcher may read; repeatable.")] = [],  # noqa: B006
) -> None:
    """Print a new API token. It is shown this once and kept only as a hash."""
    from aggregator.access.tokens import make_token

    with opened_register(folder) as register:
        now = time.time()
        text, kept = make_token(name, role, now=now, expires=now + days * 86_400)
        register.add_api_token(kept)
        for plan in study:
            register.grant(_whole(register, plan), name)
    screen.say(text)


@people.command("list")
def people_list(folder: Folder = DEFAULT) -> None:
    """Print everybody with a key or a token, a line each; never the token itself."""
    with opened_register(folder) as register:
        for party in register.enrolled_keys():
            shown = f"key {fingerprint(party.public_key)}"
            _line(register, party.name, party.role, shown, "revoked" if party.revoked else "enrolled")
        for token in register.api_tokens():
            until = f"until {time.strftime('%Y-%m-%d', time.gmtime(token.expires))}"
            state = "revoked" if token.revoked else "expired" if token.expires <= time.time() else until
            _line(register, token.name, token.role, f"token {token.id}", state)


def _line(register: Register, name: str, role: str, shown: str, state: str) -> None:
    plans = ", ".join(
        " ".join(words_of(bytes.fromhex(p))[:3]) + " …" for p in sorted(register.readable(name))
    )
    screen.say(f"{name:20} {role:10} {shown:24} {state:16} {'reads ' + plans if plans else ''}".rstrip())


@people.command("revoke")
def people_revoke(
    name: Annotated[str, typer.Argument(help="The person; all keys and tokens of that name end.")],
    folder: Folder = DEFAULT,
    token: Annotated[str, typer.Option(help="End only the token with this id.")] = "",
) -> None:
    """End a person's access, or one token of theirs. A running aggregator knows at once."""
    with opened_register(folder) as register:
        if token:
            register.revoke_api_token(token, name=name, now=time.time())
        else:
            register.revoke(name, now=time.time())
    screen.say(f"{name}: {'token ' + token if token else 'everything'} is revoked.")


@people.command("grant")
def people_grant(
    name: Annotated[str, typer.Argument(help="A researcher.")],
    plan: Annotated[
        str, typer.Argument(help="The plan's words in quotation marks, or 8 digits or more of its hash.")
    ],
    folder: Folder = DEFAULT,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take it back instead.")] = False,
) -> None:
    """Let a researcher read a study's progress and models."""
    with opened_register(folder) as register:
        change = register.withdraw if withdraw else register.grant
        whole = _whole(register, plan)
        change(whole, name)
    screen.say(f"{name} may {'no longer ' if withdraw else ''}read {spoken(bytes.fromhex(whole))}.")


@contextmanager
def opened_register(folder: Path) -> Iterator[Register]:
    """The register of the aggregator in a folder, closed at the end."""
    store = open_store(configuration.load(folder))
    try:
        yield store.register
    finally:
        store.close()


def _whole(register: Register, plan: str) -> str:
    """The one plan with this fingerprint, or whose hash starts like this. Raises: NotAFingerprint, NoPlan."""
    typed, known = plan.strip().lower(), register.plan_ids()
    if 8 <= len(typed) < LEAST_DIGITS and re.fullmatch("[0-9a-f]+", typed):
        found = [p for p in known if p.startswith(typed)]
    else:
        found = [p for p in known if means([plan], bytes.fromhex(p))] if known else []
    if len(found) != 1:
        raise NoPlan(typed=plan)
    return found[0]
