"""The dashboard: who sees what, the page and its twin, and the stream of what changes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.access.sessions import COOKIE, begun, new_cookie
from aggregator.settings import Limits
from aggregator.storage.register import Role
from aggregator.web.dashboard.board import Key
from aggregator.web.dashboard.parts import Parts, changed, filled, mark_of, moment
from aggregator.web.dashboard.screens import all_screens
from door import Door
from made_board import ADMIN, HOSTILE, OTHER, PLAN, MadeWatching, made_app, study, watching
from medveil.catalogue import Speaker
from medveil.catalogue.dashboard import DASHBOARD
from served import Served, served
from visitor import Visitor
from world import World, make_sites, make_world, play

BROWSER = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
RESEARCHER = replace(ADMIN, name="rosa", role=Role.RESEARCHER, shown="Rosa")
VALUES = {"plan": PLAN, "number": "7", "attempt": "1", "hospital": "lyon"}


class Site:
    """The application over made-up values, without a network."""

    def __init__(self, folder: Path, made: MadeWatching, who: Any = ADMIN) -> None:
        self.made, self.app = made, made_app(folder, made, who)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """One request of a browser."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
                return await client.get(path, headers=BROWSER | headers)

        return asyncio.run(send())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.web.dashboard.live.EVERY_S", 0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, watching(6, 2))
    yield made
    made.app.state.board.close()


def pages(role: Role = Role.ADMIN) -> list[str]:
    return [screen.path.format(**VALUES) for screen in all_screens() if role in screen.roles]


def test_every_page_has_a_title_a_command_and_what_its_browser_must_obey(site: Site) -> None:
    for path in pages():
        answer = site.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert re.search(r"<title>.+ · Chest consortium · MedVeil</title>", answer.text)
        assert re.search(r"<code>medveil [a-z ]+", answer.text)
        assert not re.search(r"\s(style|on[a-z]+)=|<script>|<style>|https?://", answer.text), path


def test_the_twin_has_the_value_of_its_page_and_says_what_time_it_is(site: Site) -> None:
    for screen in all_screens():
        twin = site.get(screen.twin.format(**VALUES))
        assert twin.status_code == 200
        assert twin.headers["content-type"] == "application/json"
        found = twin.json()
        assert set(found) == {"now", "command", "value"}
        screen.gives.model_validate(found["value"])
        assert found["command"] in site.get(screen.path.format(**VALUES)).text
        same = site.get(screen.path.format(**VALUES), accept="application/json").json()
        assert {**same["value"], "as_of": 0} == {**found["value"], "as_of": 0}


def test_nobody_sees_a_page_a_twin_or_a_stream_without_having_signed_in(tmp_path: Path) -> None:
    site = Site(tmp_path, watching(6, 1))
    site.app.dependency_overrides.clear()

    async def nobody(request: Any, *, acts: bool = True) -> Any:
        from aggregator.access.sessions import SignInFirst

        raise SignInFirst()

    site.app.state.service.visitors = type("Visitors", (), {"session": staticmethod(nobody)})()
    for screen in all_screens():
        page = site.get(screen.path.format(**VALUES))
        assert page.status_code == 303
        assert page.headers["location"].startswith("/signin")
        twin = screen.twin.format(**VALUES)
        assert site.get(twin).status_code == 401
        stream = twin.replace(".json", ".live")
        assert site.get(stream, accept="text/event-stream").status_code == 401
    assert site.made.asked == []


def test_not_yours_is_answered_with_the_bytes_of_not_there(tmp_path: Path) -> None:
    made = watching(6, 1)
    made.studies_ = (*made.studies_, study(OTHER, "southern"))
    site = Site(tmp_path, made, RESEARCHER)
    for screen in (one for one in all_screens() if one.of_a_study):
        for path in (screen.path, screen.twin, screen.twin.replace(".json", ".live")):
            theirs = site.get(path.format(**VALUES | {"plan": OTHER}))
            nowhere = site.get(path.format(**VALUES | {"plan": "0" * 64}))
            assert theirs.status_code == nowhere.status_code == 404
            assert theirs.content == nowhere.content
    for path in pages(Role.RESEARCHER):
        assert "southern" not in site.get(path).text
        assert OTHER not in site.get(path).text
    assert "southern" in Site(tmp_path, made).get("/").text


def test_a_researcher_has_no_page_of_enrolment_and_none_in_the_navigation(tmp_path: Path) -> None:
    site = Site(tmp_path, watching(6, 1), RESEARCHER)
    assert site.get("/enrolment").status_code == 403
    assert site.get("/enrolment.json", accept="application/json").status_code == 403
    assert 'href="/enrolment"' not in site.get("/").text
    assert 'href="/hospitals"' in site.get("/").text


def test_what_others_have_written_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    made = watching(6, 1)
    (one,) = made.studies_
    roster = tuple(line.model_copy(update={"reason": HOSTILE}) for line in one.roster)
    made.studies_ = (one.model_copy(update={"description": HOSTILE, "roster": roster}),)
    made.hostile = HOSTILE
    site = Site(tmp_path, made, replace(ADMIN, shown=HOSTILE))
    for path in pages():
        text = site.get(path).text
        assert "<b onload" not in text
        assert "{{ 7*7 }}" in text


def test_a_malformed_address_is_answered_by_a_page_that_repeats_nothing_of_it(site: Site) -> None:
    for path in (
        "/studies/zzz",
        f"/studies/{PLAN}/rounds/0",
        f"/studies/{PLAN}/rounds/1e3",
        f"/studies/{PLAN}/rounds?before=x",
    ):
        answer = site.get(path)
        assert answer.status_code in (404, 422), path
        assert answer.headers["content-type"].startswith("text/html")
        assert "zzz" not in answer.text
        assert "Traceback" not in answer.text
    assert site.get("/", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}).status_code == 422


def test_an_address_that_nothing_has_is_a_page_for_a_browser_and_a_problem_for_a_program(site: Site) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/nothing", "/studies/x/y/z/?w=zzz"):
        page, told = site.get(path, **browser), site.get(path, accept="*/*")
        assert (page.status_code, told.status_code) == (404, 404)
        assert page.headers["content-type"].startswith("text/html")
        assert "content-security-policy" in page.headers
        assert "There is no such page for you" in page.text
        assert "zzz" not in page.text
        assert told.headers["content-type"] == "application/problem+json"


def test_pages_speak_the_language_that_the_browser_asks_for(site: Site) -> None:
    chinese = site.get("/", **{"accept-language": "zh-CN,zh;q=0.9"})
    assert 'lang="zh-CN"' in chinese.text
    assert "正在等待" in chinese.text
    assert "waits for" in site.get("/").text


def test_a_history_of_ten_thousand_rounds_is_shown_a_page_at_a_time(site: Site) -> None:
    site.made.ended = 10_000
    first = site.get(f"/studies/{PLAN}/rounds").text
    assert first.count("<tr>") < 60
    older = re.search(r'rel="next" href="([^"]+)"', first)
    assert older is not None
    second = site.get(older[1]).text
    assert f"/studies/{PLAN}/rounds/9960" in second
    assert f"/studies/{PLAN}/rounds/9961" not in second


# ---- a real aggregator, and somebody who has really signed in


def test_a_real_round_is_shown_to_whoever_has_come_in_by_the_link_and_to_nobody_after_signing_out(
    build: Callable[..., World],
) -> None:
    world, ada = played(build)
    door = ada.door
    assert ada.get("/").headers["location"] == "/signin"
    ada.enter()
    plan = door.world.plan.id
    first = ada.get("/")
    assert first.status_code == 200
    assert "<b " in first.text
    assert world.plan.names[0] in first.text
    for screen in all_screens():
        values = {**VALUES, "plan": plan, "number": "1"}
        page = ada.get(screen.path.format(**values))
        assert page.status_code == 200, (screen.key, page.text[-800:])
        assert ada.part(screen.twin.format(**values)).status_code == 200, screen.key
    seal = re.search(r'action="/signout"><input type="hidden" name="seal" value="([^"]+)"', first.text)
    assert seal is not None
    assert ada.post("/signout", {"seal": seal[1]}).status_code == 303
    assert ada.get("/").status_code == 303
    door.service.close()


def played(build: Callable[..., World]) -> tuple[World, Visitor]:
    """One round is over and the next one waits for a hospital that is silent; nobody has come in yet."""
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2 and world.phase == "share")
    return world, Visitor(Door(world))


# ---- parts and moments


def part(made: Parts, name: str, *inside: str) -> str:
    return made(name, lambda: "".join(inside))


def page_of(lyon: str, porto: str, more: str = "") -> Parts:
    made = Parts()

    def lanes() -> str:
        return part(made, "lyon", lyon) + part(made, "porto", porto) + more

    made("page", lambda: "head " + made("lanes", lanes))
    return made


def test_only_the_innermost_part_that_has_changed_is_sent_again() -> None:
    before = page_of("trains", "trains").made
    assert changed(before, page_of("trains", "trains").made) == {}
    assert changed(before, page_of("ready", "trains").made) == {"lyon": '<section id="lyon">ready</section>'}
    assert list(changed(before, page_of("ready", "trains", "!").made)) == ["lanes"]
    assert list(changed({}, before)) == ["page"]
    assert mark_of(before) == mark_of(page_of("trains", "trains").made)
    assert mark_of(before) != mark_of(page_of("ready", "trains").made)


def test_moments_are_words_in_what_is_sent_first_and_do_not_change_what_a_page_is() -> None:
    t = Speaker(DASHBOARD, "en")
    html = f"<p>{moment('ago', 100)} {moment('since', 100)} {moment('left', 7300)}</p>"
    assert re.sub("<[^>]*>", "", filled(html, t, 160.0)) == "1 min ago 1 min 119 min"
    assert re.sub("<[^>]*>", "", filled(html, t, 9000.0)) == "2 h ago 2 h 0 s"


# ---- streams


def key(screen: str = "overview", **path: str) -> Key:
    return Key(screen, tuple(path.items()), (), Role.ADMIN, None, "en")


async def always() -> bool:
    return True


async def told(stream: AsyncIterator[bytes]) -> tuple[str, dict[str, Any]]:
    """The next event's id and data."""
    async for piece in stream:
        if piece.startswith(b"id: "):
            lines = piece.decode().splitlines()
            return lines[0][4:], json.loads(lines[2][6:])
    raise AssertionError("the stream has ended")


def write(site: Site, name: str) -> None:
    (one, *others) = site.made.studies_
    site.made.studies_ = (one.model_copy(update={"name": name}), *others)
    site.app.state.service.store.wrote()


def test_a_stream_sends_what_changes_and_resumes_from_what_a_browser_has(site: Site) -> None:
    async def watch() -> None:
        streams = site.app.state.streams
        first = streams.follow(key(), "", always)
        mark, data = await told(first)
        assert list(data["parts"]) == ["page"]
        write(site, "renamed")
        newer, data = await told(first)
        assert newer != mark
        assert "renamed" in json.dumps(data["parts"])
        assert "page" not in data["parts"]
        again, data = await told(streams.follow(key(), newer, always))
        assert (again, data["parts"]) == (newer, {})
        for forged in ("0" * 64, "x", "' or 1=1", "\u202e"):
            same, data = await told(streams.follow(key(), forged, always))
            assert (same, list(data["parts"])) == (newer, ["page"])

    asyncio.run(watch())


def test_a_page_has_the_same_mark_after_a_restart(site: Site, tmp_path: Path) -> None:
    async def mark(one: Site) -> str:
        return (await told(one.app.state.streams.follow(key(), "", always)))[0]

    other = Site(tmp_path, site.made)
    assert asyncio.run(mark(site)) == asyncio.run(mark(other))


def test_a_stream_ends_when_its_person_may_look_no_more_and_when_the_process_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.web.dashboard.live.CHECK_S", -1.0)

    async def never() -> bool:
        return False

    async def watch() -> list[bytes]:
        return [piece async for piece in site.app.state.streams.follow(key(), "", never)]

    assert asyncio.run(watch())[-1].startswith(b"event: gone")
    site.app.state.service.stopping = True
    assert len(asyncio.run(watch())) == 1


def test_a_hundred_streams_of_a_page_cost_one_value_a_change(site: Site) -> None:
    async def watch() -> None:
        streams = [site.app.state.streams.follow(key(), "", always) for _ in range(100)]
        marks = {(await told(one))[0] for one in streams}
        assert len(marks) == 1
        site.made.asked.clear()
        write(site, "renamed")
        fresh = {(await told(one))[0] for one in streams}
        assert len(fresh) == 1
        assert fresh != marks
        assert site.made.asked.count("studies") == 1

    asyncio.run(watch())


@pytest.mark.slow
def test_a_stream_goes_on_across_a_restart_of_the_aggregator_from_what_the_browser_has(folder: Path) -> None:
    world, cookie = make_world(folder / "world", approvals=1), new_cookie()
    world.admin.save(world.folder / "admin.key")
    session = begun(cookie, name="admin", role="admin", shown="Ada", way="link", now=time.time(), life_s=3600)
    world.store.sessions.sign_in(session)
    world.store.close()

    def ask(server: Served, path: str, *lines: str) -> bytes:
        head = [f"GET {path} HTTP/1.1", "Host: here", f"Cookie: {COOKIE}={cookie}", *lines, "", ""]
        with server.connect() as line:
            line.sendall("\r\n".join(head).encode())
            data = b""
            while b"event: parts" not in data and b"</html>" not in data:
                data += line.recv(1 << 16)
            while b"\n\n" not in data.rpartition(b"event: parts")[2] and b"</html>" not in data:
                data += line.recv(1 << 16)
        return data

    with served(world.folder, Limits()) as first:
        page = ask(first, "/hospitals").decode()
        mark = re.search(r'data-mark="(\w+)"', page)
        assert mark is not None
        assert b'"parts": {}' in ask(first, f"/hospitals.live?mark={mark[1]}")
    with served(world.folder, Limits()) as second:
        again = ask(second, "/hospitals.live", f"Last-Event-ID: {mark[1]}")
        assert f"id: {mark[1]}".encode() in again
        assert b'"parts": {}' in again
        assert b'"parts": {"page"' in ask(second, "/hospitals.live", "Last-Event-ID: made-up")
        assert second.stop() < 30
