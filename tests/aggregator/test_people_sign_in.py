"""Sessions of people at a browser: begun once, ended by time, by a person, by the admin; nobody else's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated

import pytest
from fastapi import Depends
from typer.testing import CliRunner

from aggregator import cli, signing_in
from aggregator.access.sessions import COOKIE, hashed
from aggregator.admin import set_up_aggregator
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.storage.sessions import NoSuchSession
from aggregator.storage.store import Store
from aggregator.ways_in import SignIn
from aggregator.web.dashboard.door import Viewer, viewer, watcher
from aggregator.web.entrance.guard import way_back
from door import Door
from visitor import Visitor
from world import Clock, World

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def door(build: Callable[..., World], clock: Clock) -> Iterator[Door]:
    """The aggregator, with one page and its twin."""
    opened = Door(build())
    opened.service.visitors.clock = clock

    @opened.app.get("/here")
    @opened.app.get("/here.json")
    async def here(who: Annotated[Viewer, Depends(viewer)]) -> dict[str, str]:
        return {"name": who.name, "role": who.role.value, "way": who.way, "seal": who.seal("/signout")}

    @opened.app.get("/stream")
    async def stream(who: Annotated[Viewer, Depends(watcher)]) -> dict[str, str]:
        return {"name": who.name}

    yield opened
    opened.service.close()


@pytest.fixture
def anna(door: Door) -> Visitor:
    return Visitor(door)


def actions(door: Door) -> list[str]:
    return [entry.action for entry in door.world.store.log.entries()]


def test_a_page_without_a_session_leads_to_the_way_in_and_a_twin_is_refused(
    door: Door, anna: Visitor
) -> None:
    answer = anna.get("/here?study=x&round=3")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/signin?back=%2Fhere%3Fstudy%3Dx%26round%3D3",
    )
    for asked in (
        anna.get("/here.json"),
        anna.part("/stream"),
        anna.get("/here", Accept="text/event-stream"),
    ):
        door.refused(asked, 401, "sign-in-first")


def test_a_link_of_the_machine_opens_once_and_for_a_minute(door: Door, anna: Visitor, clock: Clock) -> None:
    answer = anna.enter()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert anna.get("/here").json()["role"] == "admin"
    line = answer.headers["set-cookie"]
    assert line.startswith(f"{COOKIE}=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= {part.strip() for part in line.split(";")}
    assert "Domain" not in line
    again = Visitor(door).get("/signin/link/key-admin-0")
    assert (again.status_code, again.cookies.get(COOKIE)) == (401, None)
    late = Visitor(door)
    door.service.visitors.sessions.add_link(hashed("late"), name="admin", expires=clock() + 60)
    clock.now += 60
    assert late.get("/signin/link/late").status_code == 401
    assert late.get("/signin/link/never").status_code == 401
    assert not late.cookie
    assert actions(door).count("session.begun") == actions(door).count("sign-in-link.used") == 1


def test_nothing_that_opens_anything_is_in_the_database_or_the_log(door: Door, anna: Visitor) -> None:
    anna.enter()
    rows = "\n".join(door.world.dump()[0])
    assert hashed(anna.cookie) in rows
    assert anna.cookie not in rows
    assert "key-admin-0" not in rows


def test_a_session_ends_without_its_person_and_at_its_end_whatever_is_done(
    door: Door, anna: Visitor, clock: Clock
) -> None:
    anna.enter()
    clock.now += 29 * MINUTE
    assert anna.get("/here").status_code == 200
    clock.now += 29 * MINUTE
    assert anna.part("/stream").status_code == 200  # the page by itself
    clock.now += 2 * MINUTE
    assert anna.get("/here").status_code == 303
    anna.enter()
    for _ in range(35):
        clock.now += 20 * MINUTE
        assert anna.get("/here").status_code == 200
    clock.now += 20 * MINUTE
    assert anna.get("/here").status_code == 303
    door.world.store.log.verify()


def test_signing_in_again_ends_the_session_that_the_browser_had(door: Door, anna: Visitor) -> None:
    thief = Visitor(door)
    anna.cookies[COOKIE] = thief.cookies[COOKIE] = "planted-by-somebody"
    anna.enter()
    first = anna.cookie
    assert first != "planted-by-somebody"
    assert thief.get("/here").status_code == 303
    anna.enter()
    thief.cookies[COOKIE] = first
    assert anna.cookie != first
    assert thief.get("/here").status_code == 303
    assert anna.get("/here").status_code == 200


def test_signing_out_needs_a_form_of_this_browser_and_ends_the_session(door: Door, anna: Visitor) -> None:
    anna.enter()
    seal, kept = anna.get("/here").json()["seal"], anna.cookie
    other = Visitor(door)
    other.enter()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert anna.post("/signout", {"seal": seal}, **headers).status_code == 403
    for wrong in ("", "x", other.get("/here").json()["seal"]):
        assert anna.post("/signout", {"seal": wrong}).status_code == 403
    assert anna.get("/here").status_code == 200
    answer = anna.post("/signout", {"seal": seal})
    assert (answer.status_code, answer.headers["location"], anna.cookie) == (303, "/signin/out", "")
    anna.cookies[COOKIE] = kept
    assert anna.get("/here").status_code == 303
    assert other.get("/here").status_code == 200
    assert actions(door).count("session.ended") == 1


def test_the_admin_ends_sessions_and_the_next_request_knows(door: Door, anna: Visitor) -> None:
    ben = Visitor(door)
    anna.enter()
    ben.enter()
    sessions = door.service.visitors.sessions
    assert sessions.end(hashed(anna.cookie)[:12], now=door.service.visitors.clock()) == 1
    assert [one.get("/here").status_code for one in (anna, ben)] == [303, 200]
    assert sessions.end_all(now=door.service.visitors.clock()) == 1
    assert ben.get("/here").status_code == 303


def test_a_session_is_looked_up_once_whatever_else_is_written_and_ended_at_once_by_another_process(
    door: Door, anna: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna.enter()
    sessions, asked = door.service.visitors.sessions, list[str]()
    real = sessions.find_as_of
    monkeypatch.setattr(sessions, "find_as_of", lambda name: (asked.append(name), real(name))[1])
    for name in ("osaka", "kyoto", "kobe"):
        door.service.register.add_token(f"token of {name}", name=name, role="hospital", expires=9e9)
        assert anna.get("/here").status_code == 200
    assert len(asked) == 1
    elsewhere = Store(door.world.database, door.world.admin)
    elsewhere.sessions.end_all(now=door.service.visitors.clock())
    elsewhere.close()
    assert anna.get("/here").status_code == 303


def researcher_in(door: Door, name: str) -> Visitor:
    """A browser with the session of a researcher, as a provider's answer opens it."""
    from aggregator.access.sessions import begun, new_cookie

    cookie, browser = new_cookie(), Visitor(door)
    visitors = door.service.visitors
    session = begun(
        cookie, name=name, role="researcher", shown=name, way="sso", now=visitors.clock(), life_s=HOUR
    )
    visitors.sessions.sign_in(session)
    browser.cookies[COOKIE] = cookie
    return browser


@pytest.mark.parametrize("change", ["grant", "withdraw", "revoke"])
def test_a_change_of_what_a_person_may_ends_their_sessions(door: Door, change: str) -> None:
    door.token("reader", Role.RESEARCHER)
    register, plan = door.service.register, door.world.plan.id
    if change == "withdraw":
        register.grant(plan, "reader")
    browser, other = researcher_in(door, "reader"), Visitor(door)
    other.enter()
    assert browser.get("/here").json()["role"] == "researcher"
    if change == "revoke":
        register.revoke("reader", now=door.service.visitors.clock())
    else:
        getattr(register, change)(plan, "reader")
    assert browser.get("/here").status_code == 303
    assert other.get("/here").status_code == 200
    door.world.store.log.verify()


def test_an_api_token_opens_the_twin_and_no_page(door: Door) -> None:
    for role, status in ((Role.AUDITOR, 200), (Role.MONITOR, 403)):
        text = door.token(f"script-{role}", role)
        assert door.show(text, "GET", "/here.json").status_code == status
        assert door.show(text, "GET", "/here").status_code == 303
    key = door.enrolled("anna", "researcher")
    assert door.ask(key, "GET", "/here.json").json()["way"] == "key"
    door.refused(door.ask(door.hospital(), "GET", "/here.json"), 403, "not-allowed")


@pytest.mark.parametrize(
    "asked",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/%2f/evil.example//x",
        "/@evil//",
        "javascript:alert(1)",
        "/x\r\nSet-Cookie: a=b",
        "/signin/link/x",
        "/signout",
        "/\t/evil.example",
        "x",
        "",
        "/" + "a" * 400,
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(asked: str) -> None:
    assert way_back(asked) == "/"


@pytest.mark.parametrize("asked", ["/", "/studies/chest-films", "/audit?actor=anna&page=2", "/x.json"])
def test_the_page_that_was_asked_for_comes_after_signing_in(asked: str) -> None:
    assert way_back(asked) == asked


def test_pages_of_the_way_in_are_whole_in_both_languages_and_guarded(door: Door, anna: Visitor) -> None:
    for path in ("/signin", "/signin/out", "/signin/link/nothing"):
        for tag, asked in (("en", "en"), ("zh-CN", "zh")):
            answer = anna.get(path, **{"Accept-Language": asked})
            assert f'<html lang="{tag}">' in answer.text
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<script|style=|onclick", answer.text)
    assert anna.get("/signin/language/zh?back=/here").headers["location"] == "/signin?back=%2Fhere"
    assert '<html lang="zh-CN">' in anna.get("/signin").text


def test_the_commands_print_a_link_list_sessions_and_end_them(tmp_path: object, folder: object) -> None:
    settings = Settings(folder / "aggregator", port=9443)  # type: ignore[operator]
    set_up_aggregator(settings)
    run, where = CliRunner(), ["--folder", str(settings.folder)]
    shown = run.invoke(cli.app, ["page", *where])
    address = shown.stdout.strip()
    assert re.fullmatch(r"https://localhost:9443/signin/link/[A-Za-z0-9_-]{43}", address)
    assert "Nobody" in run.invoke(cli.app, ["people", "sessions", *where]).stdout
    assert run.invoke(cli.app, ["people", "sessions", "--end", *where]).exit_code != 0
    with pytest.raises(NoSuchSession):
        signing_in.end_sessions(settings, "anna")
    assert "0 sessions have ended" in run.invoke(cli.app, ["people", "sessions", "--end-all", *where]).stdout


def test_the_limits_are_settings(folder: object) -> None:
    settings = Settings(folder / "aggregator", sign_in=SignIn(idle_minutes=5))  # type: ignore[operator]
    settings.save()
    from aggregator.settings import load

    assert load(settings.folder).sign_in == SignIn(idle_minutes=5)
    assert replace(settings, sign_in=SignIn()).sign_in.idle_s == 30 * MINUTE
