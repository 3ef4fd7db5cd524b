"""The audit log elsewhere: a file that verifies alone and is gone on with, an archive by syslog."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import syslog as rsyslog
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from aggregator import admin
from aggregator.auditlog import BadEntry, Head
from aggregator.cli import app
from aggregator.monitoring import AuditTarget
from aggregator.settings import Settings
from aggregator.telling.audit_export import (
    ArchiveAway,
    AuditFollower,
    Unsent,
    export_log,
    target_of,
    unsent,
)
from aggregator.telling.audit_file import Exported, OtherAdminKey, verify_file
from medveil import syslog
from medveil.errors import BadFile, BadOption
from medveil.ids import fingerprint
from waiting import until


@pytest.fixture
def settings(folder: Path) -> Settings:
    made = Settings(folder / "aggregator", consortium="Films of three")
    admin.set_up_aggregator(made)
    more(made, "first", "second", "third")
    return made


def more(settings: Settings, *names: str) -> None:
    """An entry of the log for each."""
    for name in names:
        admin.new_token(settings, name, "hospital")


def head_of(settings: Settings) -> Head:
    with admin.opened(settings) as store:
        return store.transactions.head


def key_of(settings: Settings) -> str:
    with admin.opened(settings) as store:
        return fingerprint(store.transactions.admin_key)


@pytest.mark.parametrize("form", ["jsonl", "syslog"])
def test_an_exported_file_verifies_alone_and_is_gone_on_with(settings: Settings, form: str) -> None:
    file, key = settings.folder.parent / "audit.log", key_of(settings)
    assert export_log(settings, str(file), None, form, None) == (0, head_of(settings).number)  # type: ignore[arg-type]
    first = file.read_bytes()
    more(settings, "fourth")
    with open(file, "ab") as cut:
        cut.write(b'{"number":99,"ti')  # a crash in the middle of a line
    begin, end = export_log(settings, str(file), None, form, None)  # type: ignore[arg-type]
    assert (begin, end) == (first.count(b"\n") - 1, head_of(settings).number)
    assert file.read_bytes().startswith(first)
    found = verify_file(file, admin_key=key.lower().replace("-", " "), heads=[head_of(settings)])
    assert (found.head, found.since, found.trusted) == (head_of(settings), 0, True)
    assert export_log(settings, str(file), None, form, None) == (end, end)  # type: ignore[arg-type]


def test_a_file_that_begins_later_verifies_from_there(settings: Settings) -> None:
    file = settings.folder.parent / "audit.log"
    export_log(settings, str(file), 2, "jsonl", None)
    assert verify_file(file, admin_key=key_of(settings)).entries == head_of(settings).number - 2
    with pytest.raises(BadOption, match="the log ends at"):
        export_log(settings, str(file) + "2", 10_000, "jsonl", None)
    with pytest.raises(BadOption, match="leave out --since"):
        export_log(settings, str(file), 2, "jsonl", None)


def altered(lines: list[bytes], which: str) -> list[bytes]:
    row = json.loads(lines[3])
    match which:
        case "changed":
            return [*lines[:3], json.dumps(row | {"actor": "somebody"}).encode(), *lines[4:]]
        case "removed":
            return [*lines[:3], *lines[4:]]
        case "swapped":
            return [*lines[:3], lines[4], lines[3], *lines[5:]]
        case "signed by another":
            return [*lines[:3], json.dumps(row | {"signature": "00" * 64}).encode(), *lines[4:]]
        case "another key":
            return [json.dumps(json.loads(lines[0]) | {"key": "11" * 32}).encode(), *lines[1:]]
        case "cut":
            return lines[:-1]
        case _:
            raise AssertionError(which)


@pytest.mark.parametrize(
    "which", ["changed", "removed", "swapped", "signed by another", "another key", "cut"]
)
def test_whatever_is_done_to_a_file_is_found(settings: Settings, which: str) -> None:
    file = settings.folder.parent / "audit.log"
    export_log(settings, str(file), None, "jsonl", None)
    file.write_bytes(b"\n".join(altered(file.read_bytes().splitlines(), which)) + b"\n")
    with pytest.raises(BadEntry):
        verify_file(file, heads=[head_of(settings)])


@pytest.mark.parametrize(
    "text",
    [b"", b"no json\n", b"[" * 9000 + b"\n", b'{"format":"medveil audit log 1"}\n', b"{" + b" " * 20_000],
)
def test_what_is_no_exported_log_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "nonsense"
    file.write_bytes(text)
    with pytest.raises(BadFile, match="nonsense, line 1"):
        verify_file(file)
    with pytest.raises(BadFile):
        verify_file(tmp_path / "missing")


def test_a_file_of_another_log_is_not_gone_on_with(settings: Settings, folder: Path) -> None:
    other, file = Settings(folder / "other"), folder / "audit.log"
    admin.set_up_aggregator(other)
    more(other, "one", "two", "three")
    export_log(other, str(file), None, "jsonl", None)
    before = file.read_bytes()
    with pytest.raises(BadFile, match="is not that of this log"):
        export_log(settings, str(file), None, "jsonl", None)
    assert file.read_bytes() == before


def test_a_key_vouches_for_what_it_signs_and_for_what_it_handed_over_but_not_for_what_replaced_it(
    settings: Settings, folder: Path
) -> None:
    keys, found = [key_of(settings)], None
    for without in (False, True):
        admin.replace_admin_key(settings, without_old=without)
        keys.append(key_of(settings))
        file = folder / f"audit-{without}"
        export_log(settings, str(file), None, "jsonl", None)

        def vouched(key: str, file: Path = file) -> Exported:
            return verify_file(file, admin_key=key)

        found = vouched(keys[-1])
        assert [fingerprint(key) for key in found.keys] == keys
        if without:
            for key in keys[:-1]:
                with pytest.raises(OtherAdminKey):
                    vouched(key)
        else:
            vouched(keys[0])


def test_the_commands_write_check_and_say_what_was_done(settings: Settings, folder: Path) -> None:
    run, file = CliRunner(), folder / "audit.jsonl"
    base = ["--folder", str(settings.folder)]
    there = run.invoke(app, ["audit", "export", "--to", str(file), *base])
    assert (there.exit_code, f"to {head_of(settings).number} of the audit log" in there.output) == (0, True)
    assert "Nothing new" in run.invoke(app, ["audit", "export", "--to", str(file), *base]).output
    shown = run.invoke(app, ["audit", "export", "--since", "1", *base]).output.splitlines()
    assert [json.loads(line)["number"] for line in shown[1:]] == list(range(2, head_of(settings).number + 1))
    checked = run.invoke(app, ["audit", "verify", "--file", str(file), "--admin-key", key_of(settings)])
    assert checked.exit_code == 0
    assert f"It ends with  {head_of(settings)}" in checked.output
    doubtful = run.invoke(app, ["audit", "verify", "--file", str(file)]).output
    assert "cannot say itself" in doubtful


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """An archive over plain TCP that keeps what it is sent; one connection after the other."""
    taken: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopping = threading.Event()

        def serve() -> None:
            while True:
                line, _ = server.accept()
                with line:
                    if stopping.is_set():
                        return
                    while piece := line.recv(65_536):
                        taken.append(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = int(server.getsockname()[1])
        yield port, taken
        stopping.set()
        socket.create_connection(("127.0.0.1", port), 10).close()
        thread.join(10)


def lines_in(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        size, _, rest = stream.partition(b" ")
        found.append(rest[: int(size)])
        stream = rest[int(size) :]
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "LOOK_S", 0.05)
    monkeypatch.setattr(syslog, "LONGEST_PAUSE_S", 0.2)


def test_an_archive_over_tcp_is_sent_each_entry_once_however_often_the_command_runs(
    settings: Settings, quick: None
) -> None:
    with listener() as (port, taken):
        to = f"syslog://127.0.0.1:{port}"
        first = export_log(settings, to, None, "jsonl", None)
        assert first == (0, head_of(settings).number)
        assert export_log(settings, to, None, "jsonl", None) == (first[1], first[1])
        more(settings, "fourth")
        assert export_log(settings, to, None, "jsonl", None) == (first[1], head_of(settings).number)
    lines = lines_in(b"".join(taken))
    assert all(line.startswith(b"<85>1 ") and b" medveil-aggregator " in line for line in lines)
    rows = [json.loads(line[line.index(b"{") :]) for line in lines]
    assert [row["number"] for row in rows] == list(range(1, head_of(settings).number + 1))
    assert rows[-1]["hash"] == head_of(settings).hash.hex()


def test_an_archive_that_is_away_or_misnamed_is_told_in_words(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ArchiveAway, match=f"127.0.0.1:{port}"):
        export_log(settings, f"syslog://127.0.0.1:{port}", None, "jsonl", None)
    for wrong in ("http://x:1", "syslog://", "syslog+tls://x/path", "syslog://u@x:1", "syslog://x:99999"):
        with pytest.raises(BadOption):
            target_of(wrong)


def test_an_archive_that_goes_and_comes_back_is_told_of_once_each_time(
    settings: Settings, quick: None
) -> None:
    with listener() as (port, taken), admin.opened(settings) as store, capture_logs() as logs:
        to = f"syslog://127.0.0.1:{port}"
        follower = AuditFollower(store.log, target_of(to), settings.folder)
        there, nowhere = follower._target, target_of("syslog://127.0.0.1:1")
        lacks: list[Unsent | None] = []
        begun = time.time()

        async def play() -> None:
            running = asyncio.ensure_future(follower.run())
            await until(lambda: follower.known() == head_of(settings).number)
            follower.drop()
            follower._target = nowhere
            await asyncio.to_thread(more, settings, "while", "away")
            await until(lambda: len(logs) == 1)
            lacks.append(unsent(store, AuditTarget(to=to), settings.folder))
            follower._target = there
            await until(lambda: len(logs) == 2)
            lacks.append(unsent(store, AuditTarget(to=to), settings.folder))
            running.cancel()
            follower.drop()

        asyncio.run(play())
    assert [one["event"] for one in logs] == ["audit-archive.away", "audit-archive.back"]
    assert lacks[1] == Unsent(0, None)
    assert lacks[0] is not None
    assert lacks[0].entries == 2
    assert lacks[0].since is not None
    assert begun - 1 <= lacks[0].since <= time.time()
    rows = [json.loads(line[line.index(b"{") :])["number"] for line in lines_in(b"".join(taken))]
    assert rows == list(range(1, len(rows) + 1))


@pytest.mark.slow
@rsyslog.needs_rsyslog
def test_a_running_aggregator_follows_over_tls_also_when_the_archive_was_away(
    settings: Settings, folder: Path, quick: None
) -> None:
    with rsyslog.archive(folder / "archive") as archive, admin.opened(settings) as store:
        there = target_of(f"syslog+tls://localhost:{archive.port}", authority=archive.here / "ca.pem")

        def numbers() -> set[int]:
            return {json.loads(text[text.index("{") :])["number"] for *_, text in archive.lines()}

        async def play() -> None:
            follower = AuditFollower(store.log, there, settings.folder)
            running = asyncio.ensure_future(follower.run())
            await until(lambda: len(numbers()) == head_of(settings).number)
            archive.stop()
            await asyncio.to_thread(more, settings, "while", "away")
            archive.start()
            await until(lambda: len(numbers()) == head_of(settings).number)
            running.cancel()
            await asyncio.to_thread(more, settings, "last")
            await follower.close()
            await until(lambda: len(numbers()) == head_of(settings).number)

        asyncio.run(play())
