"""``medveil aggregator people``: who may read what."""

from __future__ import annotations

import getpass
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aggregator.settings import Settings, load
from medveil.errors import BadOption, utc
from medveil.folders import named
from medveil.ids import fingerprint
from medveil.shown import Screen, Words, can_ask, good, strong, warn

if TYPE_CHECKING:
    from aggregator.admin import Access

people = typer.Typer(
    no_args_is_help=True, help="Who may read what: API tokens of people, and the studies of each researcher."
)
screen = Screen()
AsJson = Annotated[bool, typer.Option("--json", help="For a program: JSON, a value a line.")]
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The aggregator's folder.")]
DEFAULT = Path("aggregator-data")
TRIES = 3
RoleName = Literal["admin", "researcher", "auditor", "monitor"]


@people.command("add")
def people_add(
    name: Annotated[str, typer.Argument(help="The person, or the script that reads for them.")],
    role: Annotated[RoleName, typer.Option(help="What the token may read.")],
    folder: Folder = DEFAULT,
    days: Annotated[float, typer.Option(min=0.01, max=400, help="When the token expires.")] = 90.0,
    study: Annotated[list[str], typer.Option(help="A plan that a researcher may read; repeatable.")] = [],  # noqa: B006
) -> None:
    """Print a new API token. It is shown this once and kept only as a hash."""
    from aggregator import admin
    from aggregator.storage.register import Role

    screen.say(admin.add_person(load(folder), name, Role(role), days=days, plans=study))


@people.command("list")
def people_list(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Print everybody with a key or a token, a line each; never the token itself."""
    from aggregator import admin

    found = list(admin.people(load(folder)))
    for access in found:
        if as_json:
            screen.json(_for_programs(access))
        else:
            _show_access(access)
    if not found and not as_json:
        screen.say(f"Nobody has a key or a token yet. Next: medveil aggregator invite NAME {named(folder)}")


def _for_programs(access: Access) -> dict[str, object]:
    return {
        "name": access.name,
        "role": access.role,
        "key": None if access.key is None else fingerprint(access.key),
        "token": access.token or None,
        "until": access.expires if math.isfinite(access.expires) else None,
        "state": _state(access),
        "reads": list(access.reads),
    }


def _state(access: Access) -> str:
    if access.revoked:
        return "revoked"
    return "expired" if access.expires <= time.time() else "open"


def _show_access(access: Access) -> None:
    from medveil.spoken import words_of

    if access.key is None:
        shown, state = f"token {access.token}", time.strftime("until %Y-%m-%d", time.gmtime(access.expires))
    else:
        shown, state = f"key {fingerprint(access.key)}", "enrolled"
    if _state(access) != "open":
        state = _state(access)
    plans = ", ".join(" ".join(words_of(bytes.fromhex(p))[:3]) + " …" for p in access.reads)
    reads = "reads " + plans if plans else ""
    screen.say(f"{access.name:20} {access.role:10} {shown:24} {state:16} {reads}".rstrip())


@people.command("break-glass")
def people_break_glass(
    name: Annotated[str, typer.Argument(help="What the admin is called in the log.")],
    folder: Folder = DEFAULT,
    again: Annotated[
        bool, typer.Option("--again", help="There is one: a new password and key take the old ones' place.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="Make the password instead of asking for one.")
    ] = False,
) -> None:
    """Make an admin who signs in with a password and a code when no sign-in service answers."""
    make_local_admin(load(folder), name, again=again, generate=generate)


def make_local_admin(settings: Settings, name: str, *, again: bool = False, generate: bool = False) -> None:
    """Ask, show and keep. Where nobody can be asked the password is made, and no code is tried.

    Raises: BadOption, WeakPassword, WrongPassword, AlreadyThere, NoSuchSession.
    """
    from aggregator import signing_in
    from aggregator.access import breakglass

    password = ""
    if can_ask() and not generate:
        password = getpass.getpass("New password (Enter: one is made): ")
        if password:
            breakglass.check_new(password, getpass.getpass("The same again: "))
    admin, code = signing_in.new_admin(settings, name, password), ""
    if not password:
        screen.say("Password (write it down; it is shown this once):")
        screen.say(" ", strong(admin.password))
    screen.say("Key for the authenticator program (shown this once; 6 digits, 30 seconds, SHA-1):")
    screen.say(" ", strong(admin.typed_key))
    screen.say(f"  {admin.address}")
    for left in range(TRIES if can_ask() else 0, 0, -1):
        code = screen.answer("Put the key into the program, then type the code that it shows:") or "none"
        if admin.shows(code) or left == 1:
            break
        screen.say("That is not its code. Is the clock of this machine right, and that of the program's?")
    signing_in.keep_admin(settings, admin, code=code, again=again)
    screen.say(f"{name} may sign in at {settings.url}/signin/local, as an admin.")


@people.command("providers")
def people_providers(folder: Folder = DEFAULT) -> None:
    """The sign-in services of the settings: what to register there, and whether each one answers now."""
    from aggregator import signing_in

    looks = signing_in.look_at_providers(load(folder))
    for look in looks:
        one = look.provider
        rows: list[tuple[Words, Words]] = [
            ("issuer", one.issuer),
            ("client", one.client_id),
            ("sends back to", look.redirect),
            ("rules", str(len(one.rules))),
        ]
        screen.say(strong(f"{one.name}  {one.title}"))
        screen.fields(rows, width=14, indent=2)
        screen.say(
            "  ",
            good("It answers, and its keys can be read.")
            if look.problem is None
            else warn(str(look.problem)),
        )
    if not looks:
        screen.say("No sign-in service is set up: docs/admin.md, Signing in, shows how.")
    if any(look.problem for look in looks):
        raise typer.Exit(1)


@people.command("sessions")
def people_sessions(
    which: Annotated[
        str, typer.Argument(help="With --end: the number of a session, or a person's name.")
    ] = "",
    folder: Folder = DEFAULT,
    end: Annotated[bool, typer.Option("--end", help="Sign out what is named.")] = False,
    end_all: Annotated[bool, typer.Option("--end-all", help="Sign everybody out.")] = False,
) -> None:
    """Who is signed in to the pages, a line each; or sign them out. A running aggregator knows at once."""
    from aggregator import signing_in

    settings = load(folder)
    if end and not which:
        raise BadOption(problem="--end ends what is named before it; --end-all ends every session")
    if end_all or end:
        ended = signing_in.end_sessions(settings, "" if end_all else which)
        screen.say(f"{ended} {'session has' if ended == 1 else 'sessions have'} ended.")
        return
    found = [one for one in signing_in.open_sessions(settings) if which in ("", one.name, one.id)]
    for one in found:
        since = f"since {utc(one.begun)}, seen {utc(one.used)}"
        screen.say(f"{one.id}  {one.name:20} {one.role:10} by {one.way:12} {since}")
    if not found:
        screen.say("Nobody is signed in.")


@people.command("revoke")
def people_revoke(
    name: Annotated[str, typer.Argument(help="The person; all keys and tokens of that name end.")],
    folder: Folder = DEFAULT,
    token: Annotated[str, typer.Option(help="End only the token with this id.")] = "",
) -> None:
    """End a person's access, or one token of theirs. A running aggregator knows at once."""
    from aggregator import admin

    admin.revoke(load(folder), name, token=token)
    screen.say(f"{name}: {'token ' + token if token else 'everything'} is revoked.")


@people.command("grant")
def people_grant(
    name: Annotated[str, typer.Argument(help="A researcher, or a region's relay.")],
    plan: Annotated[
        str,
        typer.Argument(
            help="The study's name, its plan's words in quotation marks, or 8 digits or more of its hash."
        ),
    ],
    folder: Folder = DEFAULT,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take it back instead.")] = False,
) -> None:
    """Let a researcher read a study's progress and models, or a relay add its masked vectors."""
    from aggregator import admin
    from medveil.spoken import spoken

    whole = admin.grant(load(folder), name, plan, withdraw=withdraw)
    screen.say(f"{name} may {'no longer ' if withdraw else ''}read {spoken(bytes.fromhex(whole))}.")
