"""What waits for a person is told, each thing once, and no round ever waits for it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from aggregator.cli import app
from aggregator.monitoring import EVENTS, Mail, Monitoring, Receiver, Webhook
from aggregator.settings import Settings, load
from aggregator.telling import queue
from aggregator.telling.messenger import Messenger
from aggregator.telling.notices import TEST, Lookout, Notice, a_test
from aggregator.telling.queue import Queue
from aggregator.telling.receivers import ONCE, SIGNATURE, SUBJECTS, NotTold, deliver, make_secret
from aggregator.watching.live import live_of
from aggregator.watching.watch import Watching
from medveil.errors import BadFile
from medveil.reports import HospitalsRefusal
from proxies import SmallProxy, running
from receivers import Hook, Post, listening, tls_in
from world import Clock, World, finish, make_sites, play

Build = Callable[..., World]
NOTICE = a_test("Films", 1_700_000_000.0).model_copy(
    update={"event": "round.waiting", "study": "tiny", "hospitals": ("st-marys",), "reason": "hospitals"}
)


def lookout(world: World, ends: float | None = None) -> Lookout:
    runs = world.coordinator.runs
    watching = Watching(
        world.store, live=lambda: live_of(runs, {}, started=0.0), reader=world.reader, now=runs.wall_clock
    )
    made = Lookout(
        runs, watching.waits_for, consortium="Films", waiting_s=600.0, certificate_ends=lambda: ends
    )
    runs.on_end.append(made.note)
    return made


def events(found: list[Notice]) -> list[str]:
    return [notice.event for notice in found]


def test_a_round_that_stands_still_is_told_with_whom_it_waits_for(build: Build) -> None:
    world = build(deadlines={"silence_s": 9000.0, "share_s": 9000.0})
    sites, look = make_sites(world), lookout(world)
    play(world, sites, until=lambda: world.phase == "share")
    for site in sites[:2]:
        site.act()
    assert look.look() == []
    world.clock.now += 601
    (notice,) = look.look()
    assert (notice.event, notice.hospitals, notice.round) == ("round.waiting", ("hospital-3",), 1)
    assert "has stood still for 10 min" in notice.text
    assert "Round 1 waits for hospital-3" in notice.text
    halted = look._waits_for(world.plan.id).model_copy(update={"why": "paused"})
    assert (
        Lookout(  # its admin has paused it
            world.coordinator.runs,
            lambda plan: halted,
            consortium="Films",
            waiting_s=600.0,
            certificate_ends=lambda: None,
        ).look()
        == []
    )
    world.clock.now += 60
    (again,) = look.look()
    assert again.id == notice.id
    world.restart()
    later = lookout(world)
    world.coordinator.tick()
    world.clock.now += 601
    assert [one.id for one in later.look()] == [notice.id]


def test_failures_refusals_the_end_and_the_certificates_last_days_are_told(build: Build) -> None:
    world = build()
    sites, look = make_sites(world), lookout(world)
    play(world, sites, until=lambda: world.phase == "share")
    world.clock.now += world.plan.study.deadlines.share_s + 21
    world.coordinator.tick()
    (failed,) = {notice.id: notice for notice in look.look()}.values()
    assert (failed.event, failed.reason, failed.attempt) == ("attempt.failed", "below-threshold", 1)
    assert set(failed.hospitals) == set(world.plan.names)
    finish(world, sites)
    run = world.coordinator.runs.of(world.plan.id, "hospital-1")
    run.refusals["hospital-2"] = HospitalsRefusal(
        hospital="hospital-2", kind="withdrawn", reason="Audit of our own", at=5.0
    )
    refused, over = look.look()
    assert (refused.event, refused.hospitals) == ("hospital.refused", ("hospital-2",))
    assert refused.text == "Study tiny: the hospital hospital-2 has taken its approval back: Audit of our own"
    assert (over.event, over.text) == ("study.finished", "Study tiny is over. It published 2 versions.")
    now, ids = world.coordinator.runs.wall_clock(), set()
    for days in (20, 8, 6.5, 2, 0.5, -1):
        (ends,) = (n for n in lookout(world, now + 86_400 * days).look() if n.event == "certificate.ends")
        ids.add(ends.id)
    assert len(ids) == 6  # another certificate each time
    assert events(lookout(world, now + 22 * 86_400).look()).count("certificate.ends") == 0


def told(notice: Notice, receivers: str = "ab") -> str:
    return receivers


def test_each_notice_is_told_once_also_after_a_restart_and_old_ones_are_no_news(folder: Path) -> None:
    clock = Clock()
    first = Queue(folder, now=clock)
    first.take([NOTICE], lambda notice: ())
    assert first.owed == ()
    fresh = NOTICE.model_copy(update={"id": "1" * 32})
    assert Queue(folder, now=clock).take([NOTICE, fresh], told) == 1
    assert Queue(folder, now=clock).take([NOTICE, fresh], told) == 0
    again = Queue(folder, now=clock)
    assert [(one.notice.id, one.receiver) for one in again.owed] == [("1" * 32, "a"), ("1" * 32, "b")]
    one = again.due()
    assert one is not None
    assert Queue(folder, now=clock).due() == one  # a crash before it is settled: once more, same id
    again.settle(one, taken=True)
    assert [one.receiver for one in Queue(folder, now=clock).owed] == ["b"]
    assert (folder / queue.FILE).stat().st_mode & 0o77 == 0
    (folder / queue.FILE).write_text("{}x")
    with pytest.raises(BadFile):
        Queue(folder, now=clock)


def test_a_try_that_fails_is_made_again_ever_later_and_given_up_in_the_end(folder: Path) -> None:
    clock = Clock()
    made = Queue(folder, now=clock)
    made.take([], told)
    made.take([NOTICE], lambda notice: "a")
    pauses = []
    while made.owed:
        while (one := made.due()) is None:
            clock.now += 1
        began = clock.now
        made.settle(one, taken=False)
        pauses += [left.due - began for left in made.owed]
    assert pauses[:3] == [15.0, 30.0, 60.0]
    assert max(pauses) == queue.LONGEST_S
    assert len(pauses) == queue.TRIES - 1


def test_the_queue_stays_small_however_much_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 20)
    monkeypatch.setattr(queue, "MOST_TOLD", 30)
    made = Queue(folder, now=Clock())
    made.take([], told)
    many = [NOTICE.model_copy(update={"id": f"{number:032x}"}) for number in range(100)]
    for notice in many:
        made.take([notice, many[0]], lambda notice: "a")
    assert len(made.owed) == 20
    assert made.take([many[0], many[-1]], told) == 0
    assert len(json.loads((folder / queue.FILE).read_text())["told"]) <= 31


def test_the_messenger_tells_who_wants_to_know_and_outlives_what_fails(folder: Path) -> None:
    hook = Webhook(kind="webhook", url="https://a.example.org/x", events=("round.waiting",))
    mail = Mail(kind="mail", server="m:25", sender="a@b.org", to=("c@d.org",), events=("study.finished",))
    clock, failing, sent, found = Clock(), [True], [], []

    async def send(receiver: Receiver, notice: Notice, folder: Path) -> None:
        if failing[0]:
            raise NotTold(receiver="a", reason="away")
        sent.append((receiver.kind, notice.event))

    async def look() -> list[Notice]:
        return list(found)

    async def play() -> None:
        messenger = Messenger((hook, mail), Queue(folder, now=clock), look, folder, deliver=send)
        await messenger.step()
        found.append(NOTICE)
        await messenger.step()
        assert sent == []
        failing[0] = False
        await messenger.step()
        assert sent == []  # not due yet
        clock.now += 16
        await messenger.step()
        await messenger.step()

    asyncio.run(play())
    assert sent == [("webhook", "round.waiting")]


def hook_at(port: int, folder: Path, **changes: Any) -> Webhook:
    told: dict[str, Any] = {"private": True, "authority": folder / "tls" / "ca.pem"}
    return Webhook(kind="webhook", url=f"https://localhost:{port}/a-secret-path", **(told | changes))


def tell(receiver: Receiver, folder: Path, notice: Notice = NOTICE) -> None:
    asyncio.run(deliver(receiver, notice, folder))


def test_a_webhook_gets_a_signed_post_that_anybody_with_the_secret_can_check(folder: Path) -> None:
    hook, secret = Hook(tls_in(folder / "tls")), make_secret(folder / "notify.secret")
    with listening(hook.serve) as port:
        tell(hook_at(port, folder), folder)
    ((path, headers, body),) = hook.taken
    assert path == "/a-secret-path"
    assert headers["host"] == f"localhost:{port}"
    assert headers[ONCE.lower()] == NOTICE.id
    at, mac = (part.partition("=")[2] for part in headers[SIGNATURE.lower()].split(","))
    assert mac == hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    sent = json.loads(body)
    assert sent == {
        "id": NOTICE.id,
        "event": "round.waiting",
        "time": NOTICE.time,
        "consortium": "Films",
        "study": "tiny",
        "hospitals": ["st-marys"],
        "reason": "hospitals",
        "text": NOTICE.text,
    }


def test_what_a_receiver_may_not_do_is_not_done_and_its_path_is_not_shown(folder: Path) -> None:
    hook, other = Hook(tls_in(folder / "tls")), Hook(tls_in(folder / "tls"))
    make_secret(folder / "notify.secret")
    make_other = tls_in(folder / "others")
    assert isinstance(make_other, ssl.SSLContext)
    with listening(hook.serve) as port, listening(other.serve) as elsewhere:
        hook.answer, hook.more = "307 Moved", f"Location: https://localhost:{elsewhere}/\r\n"
        cases: list[tuple[Webhook, str]] = [
            (hook_at(port, folder), "307 .*not followed"),
            (hook_at(port, folder, private=False), "private network"),
            (hook_at(port, folder, authority=folder / "others" / "ca.pem"), "TLS"),
            (Webhook(kind="webhook", url=f"http://localhost:{port}/a-secret-path"), "private network"),
            (Webhook(kind="webhook", url="https://nowhere.invalid/a-secret-path"), "name is not known"),
        ]
        for receiver, words in cases:
            with pytest.raises(NotTold, match=words) as refused:
                tell(receiver, folder)
            assert "a-secret-path" not in str(refused.value)
    assert len(hook.taken) == 1
    assert other.taken == []


def test_a_proxy_is_no_way_into_a_private_network(folder: Path) -> None:
    """Nothing is asked of the proxy for an address that the admin has not allowed, known here or not."""
    hook = Hook(tls_in(folder / "tls", "fl.example.org"))
    make_secret(folder / "notify.secret")
    with listening(hook.serve) as port, running(SmallProxy("http")) as between:
        through = {"authority": folder / "tls" / "ca.pem", "proxy": between.url}
        for host, words in (
            ("localhost", "an address of a private network"),
            ("127.0.0.1", "an address of a private network"),
            ("[::ffff:10.0.0.1]", "an address of a private network"),
            ("fl.example.org", "cannot look up its name"),  # the proxy knows it, this machine does not
        ):
            told = Webhook(kind="webhook", url=f"https://{host}:{port}/a-secret-path", **through)
            with pytest.raises(NotTold, match=words):
                tell(told, folder)
        assert between.asked == hook.taken == []
        tell(told.model_copy(update={"private": True}), folder)
        assert between.asked == [f"fl.example.org:{port}"]
    assert len(hook.taken) == 1


def test_a_secret_that_others_may_read_or_that_is_none_sends_nothing(folder: Path) -> None:
    file = folder / "notify.secret"
    hook = Webhook(kind="webhook", url="https://localhost:1/")
    with pytest.raises(BadFile):
        tell(hook, folder)
    make_secret(file)
    file.chmod(0o640)
    with pytest.raises(BadFile, match="chmod 600"):
        tell(hook, folder)
    with pytest.raises(BadFile, match="already"):
        make_secret(file)
    file.write_text("short")
    file.chmod(0o600)
    with pytest.raises(BadFile, match="characters"):
        tell(hook, folder)


@pytest.mark.parametrize("at_once", [True, False])
def test_people_get_an_e_mail_over_tls_and_never_in_the_clear(folder: Path, at_once: bool) -> None:
    post = Post(tls_in(folder / "tls"), at_once=at_once)
    (folder / "password").write_text("a-password")
    (folder / "password").chmod(0o600)
    with listening(post.serve) as port:
        mail = Mail(
            kind="mail",
            server=f"localhost:{port}",
            tls="tls" if at_once else "starttls",
            sender="medveil@example.org",
            to=("anna@example.org", "ben@example.org"),
            user="medveil",
            password=Path("password"),
            authority=folder / "tls" / "ca.pem",
        )
        tell(mail, folder)
        tell(mail, folder)
        post.offers = ""
        if not at_once:
            with pytest.raises(NotTold):
                tell(mail, folder)
    first, second = (email.message_from_bytes(text, policy=email.policy.default) for text in post.taken)
    assert first["Message-ID"] == second["Message-ID"] == f"<{NOTICE.id}@example.org>"
    assert first["Subject"] == "MedVeil: study tiny waits"
    text = first.get_content()
    assert text.startswith(NOTICE.text)
    assert "Hospitals:  st-marys" in text
    assert "Found:      2023-11-14 22:13:20 UTC" in text
    assert "Reason" not in text  # the sentence says what a code would repeat
    assert set(SUBJECTS) == {*EVENTS, TEST}
    assert not any(b"AUTH" in line or b"MAIL" in line for line in post.heard)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "webhook", "url": "ftp://x"},
        {"kind": "webhook", "url": "https://x y"},
        {"kind": "webhook", "url": "https://x", "events": ["everything"]},
        {"kind": "mail", "server": "x", "sender": "a@b.org", "to": ["c@d.org"]},
        {"kind": "mail", "server": "x:25", "sender": "a@b.org\nBcc: e@f.org", "to": ["c@d.org"]},
        {"kind": "mail", "server": "x:25", "sender": "a@b.org", "to": []},
        {"kind": "pager"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Monitoring.model_validate({"notify": [wrong]})


def test_the_commands_make_a_secret_try_every_receiver_and_list_them(folder: Path) -> None:
    hook, run = Hook(tls_in(folder / "tls")), CliRunner()
    base = ["--folder", str(folder)]
    Settings(folder).save()
    assert run.invoke(app, ["notify", "test", *base]).exit_code != 0
    secret = run.invoke(app, ["notify", "secret", *base]).output.strip()
    assert (folder / "notify.secret").read_text().strip() == secret
    with listening(hook.serve) as port:
        Settings(folder, monitoring=Monitoring(notify=(hook_at(port, folder),))).save()
        assert load(folder).monitoring.notify[0].events == EVENTS
        good = run.invoke(app, ["notify", "test", *base])
        assert (good.exit_code, "it has taken the test" in good.output) == (0, True)
        hook.answer = "500 No"
        bad = run.invoke(app, ["notify", "test", *base])
        assert (bad.exit_code, "it answered 500" in bad.output) == (1, True)
        listed = run.invoke(app, ["notify", "list", *base]).output
    assert "localhost" in listed
    assert "a-secret-path" not in bad.output + listed
    assert json.loads(hook.taken[0][2])["event"] == "test"
