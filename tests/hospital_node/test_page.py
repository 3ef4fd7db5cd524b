"""The operator's page: who may see it, what is refused, what is signed, and what it tells."""

from __future__ import annotations

import json
import re
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest
from typer.testing import CliRunner

from hospital_node.cli import app
from hospital_node.page import password
from hospital_node.page.door import IDLE_S, LIFE_S, TRIES, WITHIN_S, Door
from hospital_node.page.errors import (
    PageAddress,
    PagePort,
    SignedOut,
    TooManyTries,
    WeakPassword,
    WrongPassword,
)
from hospital_node.page.events import MOST_BYTES, Events
from hospital_node.page.guard import HEADERS
from hospital_node.page.serving import check_address, listen
from hospital_node.settings import Node
from node_page import HASH, Browser, Served, made_node, made_panels, recorded, served
from world import Clock

GOOD = "correct horse battery staple"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for tests that change nothing of it."""
    with served(made_node(tmp_path_factory.mktemp("page")), made_panels(2), every_s=0.01) as started:
        yield started


@pytest.fixture
def browser(page: Served) -> Browser:
    """One that is signed in."""
    return Browser(page).enter()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.9", "127.0.0.2", "node.hospital.org", ""])
def test_the_page_listens_on_loopback_and_nowhere_else(host: str, tmp_path: Path) -> None:
    with pytest.raises(PageAddress):
        check_address(host)
    made = made_node(tmp_path)
    result = CliRunner().invoke(app, ["page", "--folder", str(made.folder), "--host", host])
    assert isinstance(result.exception, PageAddress)


def test_its_socket_is_of_this_machine_and_a_port_that_is_taken_is_named() -> None:
    check_address("127.0.0.1")
    with listen(0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(PagePort, match=str(port)):
            listen(port)


def test_a_link_opens_once_and_the_terminal_shows_the_next(page: Served) -> None:
    first = page.link
    Browser(page).enter()
    assert page.link != first
    again = Browser(page).send("GET", urllib.parse.urlsplit(first).path)
    assert again.status == 401
    assert "page-used-link" in again.text
    assert not Browser(page).cookies


def test_a_session_ends_when_nobody_is_there_and_after_a_working_day() -> None:
    clock = Clock()
    door = Door(lambda _: False, clock)
    idle = door.enter(door.new_link())
    clock.now += IDLE_S - 1
    door.session(idle)
    clock.now += IDLE_S - 1
    door.session(idle, acts=False)  # what the page does by itself keeps nobody signed in
    clock.now += 1
    with pytest.raises(SignedOut):
        door.session(idle)
    busy = door.enter(door.new_link())
    began = clock.now
    while clock.now - began < LIFE_S - IDLE_S / 2:
        clock.now += IDLE_S / 2
        door.session(busy)
    clock.now = began + LIFE_S
    with pytest.raises(SignedOut):
        door.session(busy)


def test_two_browsers_are_two_sessions_and_one_that_signs_out_leaves_the_other(page: Served) -> None:
    one, other = Browser(page).enter(), Browser(page).enter()
    assert one.send("POST", "/sign-out", {"seal": one.seal("/sign-out")}).status == 303
    assert one.send("GET", "/").status == 401
    assert other.send("GET", "/").status == 200


def test_wrong_passwords_are_counted_before_they_are_looked_at_and_the_right_one_waits_too() -> None:
    clock, asked = Clock(), list[str]()

    def right(typed: str) -> bool:
        asked.append(typed)
        return typed == GOOD

    door = Door(right, clock)
    for _ in range(TRIES):
        with pytest.raises(WrongPassword):
            door.sign_in("wrong")
    with pytest.raises(TooManyTries) as refused:
        door.sign_in(GOOD)
    assert refused.value.wait_s == WITHIN_S
    assert asked == ["wrong"] * TRIES
    clock.now += WITHIN_S
    door.session(door.sign_in(GOOD))


def test_a_password_is_kept_as_a_slow_hash_for_its_owner_only_and_opens_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, slow = made_node(tmp_path), password.HASHER
    assert slow.memory_cost * slow.time_cost >= 3 * 65_536  # KiB; below, the same with less of both
    monkeypatch.setattr(password, "HASHER", argon2.PasswordHasher(1, 1024, 1))
    assert not password.is_right(made, "")
    for bad, again in ((GOOD, GOOD + "x"), ("short", "short"), ("a" * 40, "a" * 40), ("x" * 201, "x" * 201)):
        with pytest.raises(WeakPassword):
            password.set_password(made, bad, again)
    assert not password.is_set(made)
    password.set_password(made, GOOD, GOOD)
    kept = password.path_of(made)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text().startswith("$argon2id$")
    with served(made, made_panels(0)) as page:
        browser = Browser(page)
        assert 'name="password"' in browser.send("GET", "/sign-in").text
        assert browser.send("POST", "/sign-in", {"password": "wrong"}).status == 401
        assert browser.send("POST", "/sign-in", {"password": GOOD}).status == 303
        assert browser.send("GET", "/").status == 200


FORGED: dict[str, tuple[str, str, dict[str, str | None], str]] = {
    "a foreign name for this address": ("GET", "/", {"Host": "evil.example"}, "page-foreign-host"),
    "another port": ("GET", "/", {"Host": "127.0.0.1:1"}, "page-foreign-host"),
    "a form of another site": ("POST", "/ask", {"Origin": "https://evil.example"}, "page-cross-site"),
    "a form of another port": ("POST", "/ask", {"Origin": "http://127.0.0.1:1"}, "page-cross-site"),
    "a form of nowhere": ("POST", "/ask", {"Origin": "null"}, "page-cross-site"),
    "a form without an origin": ("POST", "/ask", {"Origin": None}, "page-cross-site"),
    "a form by the browser's own word": ("POST", "/ask", {"Sec-Fetch-Site": "same-site"}, "page-cross-site"),
    "values into another page": ("GET", "/all.json", {"Sec-Fetch-Site": "same-site"}, "page-cross-site"),
    "a read with an origin": ("GET", "/all.json", {"Origin": "https://evil.example"}, "page-cross-site"),
    "another way to send": ("DELETE", "/ask", {"Origin": "https://evil.example"}, "page-cross-site"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_or_foreign_request_is_refused_named_and_recorded(
    page: Served, browser: Browser, name: str
) -> None:
    method, path, headers, code = FORGED[name]
    form = {"seal": browser.seal("/ask")} if method == "POST" else None
    before, asked = len(recorded(page)), page.page.asking.shown
    answer = browser.send(method, path, form, **headers)
    assert (answer.status, code in answer.text) == (421 if code == "page-foreign-host" else 403, True)
    assert recorded(page)[before:] == [(path, code)]
    assert page.page.asking.shown == asked


@pytest.mark.parametrize("seal", ["", "0" * 64, "of another form", "of another browser"])
def test_a_form_without_its_own_seal_does_nothing(page: Served, browser: Browser, seal: str) -> None:
    other = Browser(page).enter()
    made = {"of another form": browser.seal("/sign-out"), "of another browser": other.seal("/ask")}
    answer = browser.send("POST", "/ask", {"seal": made.get(seal, seal)})
    assert (answer.status, "page-forged-form" in answer.text) == (403, True)
    assert page.page.asking.shown.asked == 0


@pytest.mark.parametrize("path", ["/", "/live", "/support", "/support.json", "/all.json", "/ledger.json"])
def test_nothing_is_shown_to_whoever_is_not_signed_in(page: Served, path: str) -> None:
    answer = Browser(page, {page.page.cookie: "made-up"}).send("GET", path)
    assert answer.status == 401
    assert "pneumothorax" not in answer.text


@pytest.mark.parametrize("body", ["x=" + "y" * 20_000, "&".join(f"a{k}=1" for k in range(50))])
def test_a_form_that_is_too_large_is_refused(browser: Browser, body: str) -> None:
    form = dict(urllib.parse.parse_qsl(body))
    assert browser.send("POST", "/ask", form).status == 400
    assert browser.send("POST", "/ask", {"a": "b"}, Content_Type="text/plain").status == 400


def test_every_answer_has_the_strict_policy_and_is_kept_nowhere(browser: Browser) -> None:
    for path in ("/", "/sign-in", "/style.css", "/page.js", "/all.json", "/nothing", "/language/zh"):
        answer = browser.send("GET", path)
        assert {name: answer.headers[name.lower()] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    refused = browser.send("GET", "/", Host="evil.example")
    assert refused.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_a_cookie_is_for_this_page_and_no_script_reads_it(page: Served) -> None:
    answer = Browser(page).send("GET", urllib.parse.urlsplit(page.link).path)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"medveil-page-{page.page.port}=")
    assert {"HttpOnly", "SameSite=strict"} <= {one.strip() for one in cookie.split(";")}


def test_each_panel_has_its_values_as_json(page: Served, browser: Browser) -> None:
    whole = json.loads(browser.send("GET", "/all.json").text)
    panels = page.page.reader.panels()
    assert whole["ledger"]["spent"] == panels.ledger.spent  # type: ignore[union-attr]
    for name, value in whole.items():
        assert json.loads(browser.send("GET", f"/{name}.json").text) == value
    assert browser.send("GET", "/password.json").status == 404


def test_the_page_speaks_the_browsers_language_until_a_person_chooses(browser: Browser) -> None:
    assert "运行中" in browser.send("GET", "/", Accept_Language="zh-CN,zh;q=0.9,en;q=0.8").text
    assert "Running" in browser.send("GET", "/", Accept_Language="de, en;q=0.5, zh;q=0.1").text
    browser.send("GET", "/language/zh")
    answer = browser.send("GET", "/", Accept_Language="en")
    assert 'lang="zh-CN"' in answer.text
    assert "此地址没有内容" in browser.send("GET", "/nothing", Accept_Language="en").text


def test_a_fault_of_the_page_itself_is_a_refusal_too_and_shows_nothing_of_itself(tmp_path: Path) -> None:
    with served(made_node(tmp_path), made_panels(0)) as page:
        browser = Browser(page).enter()

        def breaks() -> Any:
            raise RuntimeError("secret of the house")

        page.page.reader.panels = breaks  # type: ignore[method-assign]
        answer = browser.send("GET", "/")
        assert (answer.status, "page-failed" in answer.text) == (500, True)
        assert "secret" not in answer.text
        assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def events_of(text: str) -> list[tuple[str, dict[str, str]]]:
    """Server-sent events by kind."""
    found = []
    for one in text.strip().split("\n\n"):
        told = dict(line.split(": ", 1) for line in one.split("\n"))
        found.append((told["event"], json.loads(told["data"])))
    return found


def test_a_page_that_is_up_to_date_is_sent_nothing_and_a_change_sends_only_its_part(tmp_path: Path) -> None:
    clock = Clock()
    door = Door(lambda _: False, clock)
    with served(made_node(tmp_path), made_panels(1), door=door, every_s=0.01) as page:
        browser = Browser(page).enter()
        found = re.search(r'data-mark="(\w+)"', browser.send("GET", "/").text)
        assert found is not None
        real, looks = page.page.reader.panels, list[int]()

        def looked() -> Any:
            looks.append(1)
            if len(looks) == 3:
                page.page.reader.change(leaves=made_panels(0).leaves)  # type: ignore[attr-defined]
            if len(looks) == 6:
                clock.now += IDLE_S
            return real()

        page.page.reader.panels = looked  # type: ignore[method-assign]
        told = events_of(browser.send("GET", f"/live?mark={found[1]}").text)
        assert [sorted(parts) for _, parts in told] == [[], [], ["leaves"], [], [], [], []]
        assert [kind for kind, _ in told] == ["parts"] * 6 + ["gone"]
        fresh = browser.enter().send("GET", "/").text
        page.page.reader.panels = real  # type: ignore[method-assign]
        clock.now += 0
        assert "Nothing has left" in fresh


def test_the_record_of_the_page_stays_small_and_says_no_more_than_the_route(node: Node) -> None:
    events = Events(node)
    for _ in range(3):
        events.path.write_text("x" * (MOST_BYTES + 1))
        events.note("refused", "/…", "page-cross-site")
    sizes = [path.stat().st_size for path in node.folder.glob("page-events*")]
    assert len(sizes) == 2
    assert sum(sizes) < 2 * MOST_BYTES
    assert stat.S_IMODE(events.path.stat().st_mode) == 0o600
    assert Events(node).newest[-1].code == "page-cross-site"


def test_the_support_bundle_holds_no_word_of_others(browser: Browser, page: Served) -> None:
    panels = made_panels(2, "Mueller-Anna-1961 /srv/films", requests=2)
    before = page.page.reader
    page.page.reader = type(before)(panels)  # type: ignore[call-arg,arg-type]
    try:
        text = browser.send("GET", "/support.json").text
        assert json.loads(text)["data"][0]["splits"][0]["patients"] == 842
        shown = browser.send("GET", "/support").text
    finally:
        page.page.reader = before
    for word in ("Mueller", "/srv", "guangzhou", HASH.hex(), "here"):
        assert word not in text
        assert word not in shown.partition("<pre")[2].partition("</pre>")[0]
