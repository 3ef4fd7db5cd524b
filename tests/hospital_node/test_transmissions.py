"""What leaves a node is on record before it leaves, and nobody changes the record unseen."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from aggregator.access.tls import make_certificates
from hospital_node.cli import app
from hospital_node.frozen import SentAnchor
from hospital_node.journal import Journal
from hospital_node.settings import Node, NodeSettings
from hospital_node.transmissions import look, record
from hospital_node.transmissions.entries import BadTransmission, End, NotRecorded
from hospital_node.transmissions.record import FILE, About, SentRecord, archived
from hospital_node.transmissions.requests import sent
from hospital_node.transport import Transport
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.rounds import AttemptKey
from medveil.shown import Screen

ME, PLAN = Identity.generate("st-marys"), "ab" * 32


def place(kind: str, attempt: int = 1) -> str:
    return f"/v1/plans/{PLAN}/rounds/3/attempts/{attempt}/{kind}?wait_s=5"


def record_in(folder: Path, **changes: Any) -> SentRecord:
    return SentRecord(folder, ME, to="https://fl.example.org:8443", authority=folder / "ca.pem", **changes)


def send(sent_by: SentRecord, kind: str = "advertise", body: bytes = b"keys", **more: Any) -> None:
    with sent_by.leaving("POST", place(kind, **more), body, None) as leaving:
        leaving.tries += 1


def entries(folder: Path) -> list[Any]:
    return list(look.read(look.files_of(folder))[1])


class Kept:
    """A journal that keeps the end in memory."""

    end: End | None = None

    def newest(self) -> End | None:
        return self.end

    def keep(self, end: End) -> None:
        self.end = end


@pytest.mark.parametrize(
    ("method", "target", "kind", "where"),
    [
        ("POST", "/v1/enrol?key=00", "enrolment", {}),
        ("POST", "/v1/certificate", "certificate", {}),
        ("POST", f"/v1/plans/{PLAN}/approval", "approval", {"plan": PLAN}),
        ("GET", f"/v1/plans/{PLAN}/work?seen=&wait_s=5", "poll", {"plan": PLAN}),
        ("GET", f"/v1/plans/{PLAN}/work?seen=&wait_s=5&ledger=0.1.ab", "ledger-end", {"plan": PLAN}),
        ("POST", place("advertise"), "keys", {"plan": PLAN, "round": 3, "attempt": 1}),
        ("POST", place("agree"), "agreement", {"plan": PLAN, "round": 3, "attempt": 1}),
        ("POST", place("unmask"), "unmask-share", {"plan": PLAN, "round": 3, "attempt": 1}),
        ("PUT", place("segments/7").partition("?")[0], "masked-segment", {"segment": 7}),
        ("GET", f"/v1/plans/{PLAN}/versions/2/sum", "sum", {"plan": PLAN}),
        ("POST", "/v1/%2e%2e/&", "other", {}),
    ],
)
def test_each_request_is_called_by_its_word(
    method: str, target: str, kind: str, where: dict[str, Any]
) -> None:
    found = sent(method, target)
    assert found.kind == kind
    assert where.items() <= found.where.items()


def test_an_entry_tells_size_hash_place_and_price_and_no_content(tmp_path: Path) -> None:
    one = record_in(tmp_path)
    one.about = lambda plan: About(1.5, "alice")
    body = b"the masked bytes of a vector"
    with one.leaving("PUT", place("segments/0"), body, hashlib.sha256(body).digest()) as leaving:
        leaving.tries += 2
    masked, answer = entries(tmp_path)
    told = masked.told
    assert (told["bytes"], told["sha256"], told["masked"]) == (28, hashlib.sha256(body).hexdigest(), True)
    assert (told["plan"], told["round"], told["attempt"]) == (PLAN, 3, 1)
    assert (told["epsilon"], told["approved_by"]) == (1.5, "alice")
    assert told["to"] == "https://fl.example.org:8443"
    assert answer.told == {"of": 1, "answer": "taken", "tries": 2}
    assert body not in (tmp_path / FILE).read_bytes()


def test_polls_are_counted_and_told_once_an_hour(tmp_path: Path) -> None:
    now = [1000.0]
    one = record_in(tmp_path, clock=lambda: now[0])
    poll = f"/v1/plans/{PLAN}/work?seen=x&wait_s=5"
    for _ in range(720):
        with one.leaving("GET", poll, b"", None):
            now[0] += 5.0
    with one.leaving("GET", poll, b"", None):
        pass
    (counted,) = entries(tmp_path)
    assert (counted.kind, counted.told["counts"]) == ("requests", {"poll": 721})
    with one.leaving("GET", "/v1/plans", b"", None):
        pass
    one.close()
    assert entries(tmp_path)[1].told["counts"] == {"plans": 1}


@pytest.mark.parametrize("how", ["changed", "left out", "swapped", "by another key", "cut"])
def test_the_first_entry_that_is_not_as_written_is_named(tmp_path: Path, how: str) -> None:
    kept, one = Kept(), record_in(tmp_path)
    one.tie(kept)
    for number in range(5):
        send(one, attempt=number + 1)
    one.close()
    assert kept.end is not None
    assert look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end).end == kept.end
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    bad = {"changed": 3, "left out": 3, "swapped": 3, "by another key": 3, "cut": 9}[how]
    if how == "changed":
        lines[3] = lines[3].replace(b'"bytes":4', b'"bytes":5')
    elif how == "left out":
        del lines[3]
    elif how == "swapped":
        lines[3], lines[4] = lines[4], lines[3]
    elif how == "by another key":
        value = json.loads(lines[3])
        mark = Identity.generate("x").sign(
            "transmission", (3).to_bytes(8, "big"), bytes.fromhex(value["hash"])
        )
        lines[3] = json.dumps(value | {"signature": mark.hex()}).encode() + b"\n"
    else:
        del lines[9:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(BadTransmission) as refused:
        look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end)
    assert refused.value.number == bad


def test_a_record_that_was_set_back_goes_on_and_stays_broken(tmp_path: Path) -> None:
    kept, one = Kept(), record_in(tmp_path)
    one.tie(kept)
    send(one)
    copy = (tmp_path / FILE).read_bytes()
    send(one)
    one.close()
    (tmp_path / FILE).write_bytes(copy)
    again = record_in(tmp_path)
    assert not again.tie(kept)
    send(again)
    again.close()
    with pytest.raises(BadTransmission) as refused:
        look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end)
    assert refused.value.number == 3


def test_files_are_put_aside_by_size_and_the_chain_goes_on(tmp_path: Path) -> None:
    kept, one = Kept(), record_in(tmp_path, most_bytes=4000)
    one.tie(kept)
    for number in range(12):
        send(one, attempt=number + 1)
    one.close()
    assert len(archived(tmp_path)) >= 3
    assert all(path.stat().st_size <= 4000 for path in look.files_of(tmp_path))
    assert look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end).end.number == 24
    archived(tmp_path)[0].unlink()  # kept elsewhere
    found = look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end)
    assert found.first > 1
    assert record_in(tmp_path).tie(kept)
    archived(tmp_path)[0].unlink()
    (tmp_path / FILE).unlink()
    again = record_in(tmp_path)
    again.tie(kept)
    send(again)
    with pytest.raises(BadTransmission):
        look.verify(look.files_of(tmp_path), key=ME.public_key)


def test_two_processes_of_a_node_write_one_chain(tmp_path: Path) -> None:
    service, command = record_in(tmp_path, most_bytes=5000), record_in(tmp_path, most_bytes=5000)
    for number in range(8):
        send(service if number % 3 else command, attempt=number + 1)
    found = look.verify(look.files_of(tmp_path), key=ME.public_key)
    assert found.end.number == 16


class Killed(BaseException):
    """The process is gone: nothing that it would do in passing is done."""


def send_until(folder: Path, crash: str, patch: pytest.MonkeyPatch) -> dict[int, int]:
    """Send one message after the other, and die at a step; each one that leaves is a file in ``line``.

    Returns: of each file, by inode, how much is on stable storage.
    """
    synced: dict[int, int] = {}
    reached, real_write, real_sync, real_fsync = [0], os.write, os.fdatasync, os.fsync

    def step(name: str) -> None:
        reached[0] += name == crash.partition(":")[0]
        if f"{name}:{reached[0]}" == crash:
            reached.append(0)
        if len(reached) > 1:
            raise Killed

    def write(handle: int, data: bytes) -> int:
        try:
            step("write")
        except Killed:
            if len(reached) == 2:
                real_write(handle, data[: len(data) // 2])
                reached.append(0)
            raise
        return real_write(handle, data)

    def fdatasync(handle: int) -> None:
        step("sync")
        real_sync(handle)
        synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def fsync(handle: int) -> None:
        real_fsync(handle)
        synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    with patch.context() as inside:
        inside.setattr(record.os, "fsync", fsync)
        inside.setattr(record.os, "write", write)
        inside.setattr(record.os, "fdatasync", fdatasync)
        one = record_in(folder, most_bytes=2500)
        with suppress(Killed):
            send_six(folder, one, step)
    assert len(reached) > 1, "it did not die"
    return synced


def send_six(folder: Path, one: SentRecord, step: Callable[[str], None]) -> None:
    for number in range(6):
        with one.leaving("POST", place("advertise", number + 1), b"x", None) as leaving:
            step("left")
            (folder / "line" / str(number + 1)).touch()
            leaving.tries += 1


@pytest.mark.parametrize(
    "crash", [*(f"{step}:{n}" for step in ("write", "sync", "left") for n in (1, 2, 5)), "write:3", "write:9"]
)
@pytest.mark.parametrize("power_cut", [False, True])
def test_a_crash_leaves_no_transmission_unrecorded(
    tmp_path: Path, crash: str, power_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "line").mkdir()
    synced = send_until(tmp_path, crash, monkeypatch)
    if power_cut:
        for path in tmp_path.glob("sent*.jsonl"):
            if path.stat().st_ino in synced:
                os.truncate(path, synced[path.stat().st_ino])
    arrived = {int(path.name) for path in (tmp_path / "line").iterdir()}
    one = record_in(tmp_path)
    send(one, attempt=99)
    look.verify(look.files_of(tmp_path), key=ME.public_key)
    recorded = {entry.told["attempt"] for entry in entries(tmp_path) if entry.kind == "keys"}
    assert arrived | {99} <= recorded


def test_a_line_that_a_crash_has_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    send(record_in(tmp_path))
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"number":3,"time_ms":17')
    assert look.verify(look.files_of(tmp_path), key=ME.public_key).end.number == 2
    send(record_in(tmp_path))
    assert look.verify(look.files_of(tmp_path), key=ME.public_key).end.number == 4


@contextmanager
def no_room(patch: pytest.MonkeyPatch) -> Iterator[None]:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with patch.context() as inside:
        inside.setattr(record.os, "fdatasync", full)
        yield


def test_nothing_leaves_that_cannot_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path, ("127.0.0.1",))
    bodies = []

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(204, content=nothing())

    async def play() -> None:
        async with Transport("https://here:1", tmp_path / "ca.pem", ME) as transport:
            await transport._client.aclose()
            answering = httpx.MockTransport(handle)
            transport._client = httpx.AsyncClient(base_url="https://here:1", transport=answering)
            key = AttemptKey(PLAN, 1, 1)
            await transport.segment(key, 0, b"first", digest=hashlib.sha256(b"first").digest())
            with no_room(monkeypatch), pytest.raises(NotRecorded, match="No space left"):
                await transport.segment(key, 1, b"second", digest=hashlib.sha256(b"second").digest())
            await transport.segment(key, 2, b"third", digest=hashlib.sha256(b"third").digest())

    asyncio.run(play())
    assert bodies == [b"first", b"third"]
    assert [entry.told.get("segment") for entry in entries(tmp_path)] == [0, None, 2, None]
    look.verify(look.files_of(tmp_path), key=ME.public_key)


def test_a_record_that_somebody_has_spoilt_is_kept_beside_and_its_loss_is_seen(tmp_path: Path) -> None:
    kept, one = Kept(), record_in(tmp_path)
    one.tie(kept)
    send(one)
    one.close()
    (tmp_path / FILE).write_bytes(b"\x00\xff" * 500 + b"\n")
    again = record_in(tmp_path)
    assert not again.tie(kept)
    send(again)
    assert list(tmp_path.glob("sent.jsonl.*.bad"))
    with pytest.raises(BadTransmission, match="Entry 1"):
        look.verify(look.files_of(tmp_path), key=ME.public_key)


@pytest.mark.parametrize("when", ["stopped", "running"])
def test_a_record_that_is_taken_away_is_missed_until_the_operator_begins_anew(
    tmp_path: Path, when: str
) -> None:
    kept, one = Kept(), record_in(tmp_path)
    one.tie(kept)
    send(one)
    one.close()
    (tmp_path / FILE).unlink()
    if when == "stopped":
        one = record_in(tmp_path)
        assert not one.tie(kept)
    send(one)
    one.close()
    with pytest.raises(BadTransmission, match="Entry 1"):
        look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end)
    aside = one.begin_anew("alice")
    send(one)
    one.close()
    assert (aside / FILE).exists()
    found = look.verify(look.files_of(tmp_path), key=ME.public_key, kept=kept.end)
    assert (found.first, found.end.number) == (5, 7)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node that has sent a masked vector in two segments, of which one was repeated, and keys."""
    (tmp_path / "images").mkdir()
    settings = NodeSettings(
        name="st-marys", aggregator="https://fl.example.org:8443", data=tmp_path / "images", dataset="d"
    )
    made = Node(tmp_path / "node", settings)
    made.save()
    ME.save(made.key)
    one = record_in(made.folder)
    with closing(Journal(made.journal)) as journal:
        one.tie(SentAnchor(journal))
        one.about = lambda _: About(0.25, "alice")
        send(one)
        for number, tries in ((0, 1), (1, 2)):
            with one.leaving("PUT", place(f"segments/{number}"), b"m" * 1000, None) as leaving:
                leaving.tries += tries
        one.close()
    return made


def command(node: Node, *words: str) -> str:
    done = CliRunner().invoke(app, ["sent", *words, "--folder", str(node.folder)], env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_people_see_what_left_what_it_sums_to_and_what_never_leaves(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("hospital_node.cli_sent.screen", Screen())  # an earlier test's may be narrower
    shown = command(node)
    assert "masked-segment × 2" in shown
    assert "alice" in shown
    assert "3,000" in shown  # the repeated segment counts twice
    assert "names, numbers, pseudonyms" in shown
    values = [json.loads(line) for line in command(node, "--json").splitlines()]
    assert [value["kind"] for value in values] == ["keys", "answer", *["masked-segment", "answer"] * 2]


def test_verify_passes_a_whole_record_and_finds_a_cut_one(node: Node) -> None:
    assert "PASSED" in command(node, "verify")
    path = node.folder / FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(BadTransmission, match=r"Entry 5 .* the record was cut"):
        command(node, "verify")


def test_an_export_is_checked_by_file_and_fingerprint_alone(node: Node, tmp_path: Path) -> None:
    command(node, "export", str(tmp_path / "for-the-auditor.jsonl"))
    alone = tmp_path / "alone"
    alone.mkdir()
    file = (tmp_path / "for-the-auditor.jsonl").rename(alone / "record")

    def verify(*words: str) -> str:
        done = CliRunner().invoke(app, ["sent", "verify", str(file), *words], env={"COLUMNS": "200"})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    told = verify("--key", fingerprint(ME.public_key))
    assert "6 entries" in told
    assert "telephone" not in told
    assert "telephone" in verify()
    with pytest.raises(look.WrongKey):
        verify("--key", fingerprint(Identity.generate("other").public_key))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:-2], lines[-1]]))
    with pytest.raises(BadTransmission, match="Entry 6"):
        verify()
    file.write_bytes(b"".join(lines[:-2]))
    assert "no closing line" in verify()
