"""The account for the day without a provider: password and code, each once, and no stranger keeps it shut."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from aggregator import cli, signing_in
from aggregator.access import breakglass
from aggregator.access.breakglass import WeakPassword, WrongPassword, code_at, step_of
from aggregator.access.sessions import COOKIE
from aggregator.adminkey import open_store
from aggregator.errors import Overloaded
from aggregator.settings import Settings
from aggregator.storage.sessions import LocalAdmin
from aggregator.storage.transactions import AlreadyThere
from aggregator.web import guesses
from aggregator.web.guesses import MARK_COOKIE, OWN_BURST, Guesses
from door import Door
from visitor import Visitor, ask
from world import Clock, World

PASSWORD = "correct horse battery staple"
KEY = breakglass.new_key()


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    """Guesses cost next to nothing here; what they cost elsewhere is RFC 9106's second choice."""
    assert (breakglass._PASSES, breakglass._KIBIBYTES) == (3, 65_536)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(breakglass, "_PASSES", 1)
        patch.setattr(breakglass, "_KIBIBYTES", 64)
        yield


@pytest.fixture(scope="module")
def kept() -> str:
    return breakglass.sealed(KEY, PASSWORD)


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def door(build: Callable[..., World], clock: Clock, kept: str) -> Iterator[Door]:
    opened = Door(build())
    visitors = opened.service.visitors
    visitors.clock, visitors.guesses._ticks = clock, clock
    visitors.sessions.add_local_admin(LocalAdmin("anna", kept, 0, clock()))
    yield opened
    opened.service.close()


def types(
    browser: Visitor, *, name: str = "anna", password: str = PASSWORD, code: str | None = None
) -> httpx.Response:
    """Fill in the form; the code of this moment if none is given."""
    now = browser.door.service.visitors.clock()
    told = code_at(KEY, int(now // 30)) if code is None else code
    return browser.post("/signin/local", {"name": name, "password": password, "code": told, "back": "/here"})


@pytest.mark.parametrize(
    ("seconds", "digest", "code"),
    [
        (59, "sha1", "94287082"),
        (59, "sha256", "46119246"),
        (59, "sha512", "90693936"),
        (1111111109, "sha1", "07081804"),
        (1111111111, "sha1", "14050471"),
        (1234567890, "sha256", "91819424"),
        (2000000000, "sha512", "38618901"),
        (20000000000, "sha1", "65353130"),
    ],
)
def test_codes_are_those_of_rfc_6238(seconds: int, digest: str, code: str) -> None:
    """Appendix B of the RFC."""
    length = {"sha1": 20, "sha256": 32, "sha512": 64}[digest]
    key = (b"1234567890" * 7)[:length]
    assert code_at(key, seconds // 30, digits=8, digest=digest) == code


def test_a_code_counts_in_its_half_minute_and_in_those_beside_it() -> None:
    now = 1_700_000_010.0
    step = int(now // 30)
    for near in (step - 1, step, step + 1):
        assert step_of(KEY, code_at(KEY, near), now) == near
    for far in (step - 2, step + 2):
        with pytest.raises(WrongPassword):
            step_of(KEY, code_at(KEY, far), now)
    for odd in ("", "none", "１２３４５６", "\ud800", "0" * 10_000):
        with pytest.raises(WrongPassword):
            step_of(KEY, odd, now)
    assert step_of(KEY, f"{code_at(KEY, step)[:3]} {code_at(KEY, step)[3:]}", now) == step


def test_what_is_kept_opens_with_the_password_alone(kept: str) -> None:
    assert breakglass.opened(kept, PASSWORD) == KEY
    for wrong in ("", PASSWORD + " ", PASSWORD.upper(), "x" * 1000, "\ud800"):
        with pytest.raises(WrongPassword):
            breakglass.opened(kept, wrong)
    for damaged in (kept[:-4] + "AAA=", "v2" + kept[2:], "", breakglass.of_nobody()):
        with pytest.raises(WrongPassword):
            breakglass.opened(damaged, PASSWORD)
    assert breakglass.typed_key(KEY) not in kept


def test_a_password_is_long_enough_and_a_made_one_is_words() -> None:
    for password, again in (
        ("short", "short"),
        ("a" * 20, "a" * 20),
        (PASSWORD, "other"),
        ("x" * 201, "x" * 201),
    ):
        with pytest.raises(WeakPassword):
            breakglass.check_new(password, again)
    breakglass.check_new(PASSWORD, PASSWORD)
    made = breakglass.new_password()
    assert len(made.split()) == 6
    assert made != breakglass.new_password()


def test_an_admin_comes_in_and_a_used_code_opens_nothing(door: Door, clock: Clock) -> None:
    anna = Visitor(door)
    assert "/signin/local" in anna.get("/signin").text
    answer = types(anna)
    assert (answer.status_code, answer.headers["location"]) == (303, "/here")
    assert anna.cookie
    assert [s.way for s in door.service.visitors.sessions.all()] == ["break-glass"]
    seen = code_at(KEY, int(clock() // 30))
    thief = Visitor(door)
    assert types(thief, code=seen).status_code == 401
    assert (
        types(thief, code=code_at(KEY, int(clock() // 30) - 1)).status_code == 401
    )  # an earlier one neither
    assert not thief.cookie
    clock.now += 30
    assert types(thief, code=seen).status_code == 401
    assert types(anna).status_code == 303
    assert [e.action for e in door.world.store.log.entries()].count("local-admin.used") == 2
    door.world.store.log.verify()


def test_it_is_not_said_what_was_wrong(door: Door) -> None:
    ways: list[dict[str, str]] = [
        {"name": "ben"},
        {"password": "x"},
        {"code": "000000"},
        {"name": "", "code": ""},
    ]
    answers = [types(Visitor(door), **way) for way in ways]
    assert {(a.status_code, COOKIE in a.headers.get("set-cookie", "")) for a in answers} == {(401, False)}
    assert len({re.sub(r"\s+", " ", answer.text) for answer in answers}) == 1


def test_a_form_of_another_site_is_not_looked_at(door: Door) -> None:
    anna = Visitor(door)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}):
        answer = anna.post("/signin/local", {"name": "anna", "password": PASSWORD}, **headers)
        assert (answer.status_code, "forged-form" in answer.text) == (403, True)
    assert anna.post("/signin/local", {"x": "y" * 9000}).status_code in (400, 422)


def test_strangers_are_slowed_and_keep_no_known_browser_out(door: Door, clock: Clock) -> None:
    anna, stranger = Visitor(door), Visitor(door)
    assert types(anna).status_code == 303
    assert MARK_COOKIE in anna.cookies
    took = [types(stranger, password="wrong").status_code for _ in range(OWN_BURST + 1)]
    assert took == [401] * (OWN_BURST - 1) + [429] * 2  # one of the share was anna's, before she was known
    clock.now += 31  # a share fills again, slowly
    assert types(anna).status_code == 303
    assert types(stranger, password="wrong").status_code == 401
    answer = types(stranger)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    forged = Visitor(door)
    forged.cookies[MARK_COOKIE] = "a" * 32 + "." + "b" * 64
    assert types(forged).status_code == 429
    assert forged.enter().status_code == 303  # whoever has the machine needs no password


def test_all_strangers_together_have_one_share_and_a_short_queue(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    door = Guesses(b"k" * 32, clock=clock, ticks=clock)
    monkeypatch.setattr(breakglass, "opened", lambda kept, password: KEY)
    admin = LocalAdmin("anna", kept, 0, 0.0)

    def guess(address: str, mark: str = "") -> str:
        try:
            ask(door.take(admin, "x", "000000", mark=mark, address=address))
        except Exception as error:
            return type(error).__name__
        return "in"

    took = [guess(f"192.0.2.{n}") for n in range(guesses.ALL_BURST + 2)]
    assert took == ["WrongPassword"] * guesses.ALL_BURST + ["TooManyRequests"] * 2
    assert guess("192.0.2.1", mark=door.new_mark()) == "WrongPassword"
    clock.now += 60
    door._waiting[False] = guesses.QUEUE
    with pytest.raises(Overloaded):
        ask(door.take(admin, "x", "000000", mark="", address="198.51.100.7"))
    door.close()


def test_a_revoked_or_remade_account_opens_nothing_and_its_sessions_end(
    door: Door, clock: Clock, kept: str
) -> None:
    anna, sessions = Visitor(door), door.service.visitors.sessions
    types(anna)
    sessions.change_local_admin(
        LocalAdmin("anna", breakglass.sealed(b"k" * 20, "another"), 0, clock()), now=clock()
    )
    assert anna.get("/signin").status_code == 200
    clock.now += 30
    assert types(anna).status_code == 401
    sessions.change_local_admin(LocalAdmin("anna", kept, 0, clock()), now=clock())
    assert types(anna).status_code == 303
    door.service.register.revoke("anna", now=clock())
    clock.now += 60
    assert types(anna).status_code == 401
    assert Visitor(door).get("/signin/local").status_code == 404
    with pytest.raises(AlreadyThere):
        sessions.add_local_admin(LocalAdmin("anna", kept, 0, clock()))
    door.world.store.log.verify()


def test_the_commands_make_an_account_that_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder / "aggregator"

    def run(*words: str, typed: str = "") -> Any:
        return CliRunner().invoke(cli.app, [*words, "--folder", str(where)], input=typed)

    shown = run("init", "--consortium", "C", "--break-glass", "anna")
    assert shown.exit_code == 0, shown.output
    lines = [line.strip() for line in shown.stdout.splitlines()]
    password = lines[lines.index("Password (write it down; it is shown this once):") + 1]
    secret = re.search(r"secret=([A-Z2-7]{32})&issuer=C", "".join(lines))
    assert secret
    settings = Settings(where)
    store = open_store(settings)
    (admin,) = store.sessions.local_admins()
    store.close()
    assert breakglass.typed_key(breakglass.opened(admin.kept, password)) == secret[1]
    again = run("people", "break-glass", "anna")
    assert "already-there" in str(again.exception)
    made = run("people", "break-glass", "anna", "--again", "--generate")
    assert made.exit_code == 0
    assert password not in made.stdout
    assert run("people", "break-glass", "No Name").exit_code != 0
    monkeypatch.setattr("aggregator.cli_people.can_ask", lambda: True)
    typed = iter([PASSWORD, PASSWORD])
    monkeypatch.setattr("aggregator.cli_people.getpass.getpass", lambda _: next(typed))
    asked = run("people", "break-glass", "ben", typed="1\n2\n3\n")
    assert "wrong-password" in str(asked.exception)
    assert PASSWORD not in asked.output
    monkeypatch.setattr("aggregator.signing_in.breakglass.new_key", lambda: KEY)
    typed = iter([PASSWORD, PASSWORD])
    code = code_at(KEY, int(time.time() // 30))
    fine = run("people", "break-glass", "ben", typed=f"{code}\n")
    assert fine.exit_code == 0, fine.output
    store = open_store(settings)
    assert {one.name for one in store.sessions.local_admins()} == {"anna", "ben"}
    store.close()
    assert signing_in.open_sessions(settings) == []
