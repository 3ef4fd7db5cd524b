"""A keeper beside its aggregator: letters pass unread, what was counted stays, and one file is for life."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from aggregator.access.tls import make_certificates
from aggregator.cli import app
from aggregator.errors import NotFound, TooManyRequests
from aggregator.keeper.book import BookDamaged, KeeperBook
from aggregator.keeper.run import answer_letters, side_of
from aggregator.keeper.set_up import write_persons
from aggregator.keeper.settings import (
    KeeperFolder,
    KeeperSettings,
    NoKeeper,
    NoPersons,
    OtherKeys,
    PersonsForLife,
)
from aggregator.relay.line import AggregatorRefuses
from aggregator.web.letters import KeeperSilent, Letters
from door import Door
from keepers import new_keys, public
from medveil.errors import BadFile, BadOption
from medveil.identity import Identity, Secret, sign_request
from medveil.keeping import Letter
from medveil.persons import Persons, identifier_form
from privacy.oprf.hospital import ask
from privacy.oprf.keeper import LimitReached, RegisterFull
from privacy.oprf.messages import Answer
from world import make_world

Send = Callable[..., Awaitable[httpx.Response]]
HOSPITAL = Identity.generate("st-marys")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    opened = Door(make_world(tmp_path_factory.mktemp("keepers")))
    for name in ("east", "west", "gone"):
        opened.enrolled(name, "keeper")
    opened.service.register.revoke("gone", now=1.0)
    yield opened
    opened.service.close()


def talked(door: Door, talk: Callable[[Send], Awaitable[Any]]) -> Any:
    """Several requests on one event loop."""

    async def all_of_it() -> Any:
        transport = httpx.ASGITransport(app=door.app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:

            async def send(who: Identity, method: str, path: str, body: bytes = b"") -> httpx.Response:
                headers = sign_request(who, method, path, body).headers()
                return await client.request(method, path, content=body, headers=headers)

            return await talk(send)

    return asyncio.run(all_of_it())


def test_a_letter_reaches_its_keeper_without_a_name_and_the_answer_its_sender(door: Door) -> None:
    east, west = door.known["east"], door.known["west"]

    async def talk(send: Send) -> None:
        asked = asyncio.create_task(send(door.hospital(), "POST", "/v1/keepers/east/letters", b"what?"))
        got = await send(east, "GET", "/v1/letters?wait_s=20")
        letter = Letter.from_bytes(got.content)
        assert letter.body == b"what?"
        assert door.hospital().name.encode() not in got.content
        assert (await send(west, "GET", "/v1/letters")).status_code == 204
        theirs = await send(west, "POST", f"/v1/letters/{letter.id}", b"a lie")
        door.refused(theirs, 404, "not-found")
        assert (await send(east, "POST", f"/v1/letters/{letter.id}", b"that")).status_code == 204
        assert (await asked).content == b"that"
        door.refused(await send(east, "POST", f"/v1/letters/{letter.id}", b"again"), 404, "not-found")

    talked(door, talk)


def test_only_hospitals_write_to_keepers_and_only_keepers_that_are_enrolled_are_written_to(
    door: Door,
) -> None:
    east = door.known["east"]

    async def talk(send: Send) -> None:
        for name in ("nobody", "gone", door.hospital().name):
            answer = await send(door.hospital(), "POST", f"/v1/keepers/{name}/letters", b"?")
            door.refused(answer, 404, "not-found")
        door.refused(await send(east, "POST", "/v1/keepers/west/letters", b"?"), 403, "not-allowed")
        door.refused(await send(door.hospital(), "GET", "/v1/letters"), 403, "not-allowed")
        door.refused(await send(door.hospital(), "POST", f"/v1/letters/{'0' * 32}", b"?"), 403, "not-allowed")
        large = await send(door.hospital(), "POST", "/v1/keepers/east/letters", bytes(40_001))
        door.refused(large, 413, "too-large")

    talked(door, talk)


def test_a_silent_keeper_is_named_and_nobody_fills_the_post_alone() -> None:
    async def all_of_it() -> None:
        letters = Letters(answer_s=0.0)
        with pytest.raises(KeeperSilent):
            await letters.ask("east", b"?", sender="a")
        letters.answer_s = 60.0
        assert await letters.next("east", wait_s=0.0) is None  # nobody waits for it any more
        waiting = [asyncio.create_task(letters.ask("east", b"?", sender="a")) for _ in range(4)]
        first = await letters.next("east", wait_s=60)
        with pytest.raises(TooManyRequests):
            await letters.ask("east", b"?", sender="a")
        assert first is not None
        with pytest.raises(NotFound):
            letters.answer("west", first.id, b"!")
        letters.answer("east", first.id, b"!")
        assert await waiting[0] == b"!"
        listening = asyncio.create_task(letters.next("west", wait_s=60))
        await asyncio.sleep(0)
        letters.stop()
        assert await listening is None  # a process that ends keeps no keeper on the line
        for one in waiting[1:]:
            with pytest.raises(KeeperSilent):
                await one
        told = {s.labels.get("outcome", s.name): s.value for m in letters.collect() for s in m.samples}
        assert [told[end] for end in ("answered", "unanswered", "refused")] == [1, 4, 1]
        assert (told["medveil_keepers"], told["medveil_keeper_answer_seconds_count"]) == (2, 1)
        assert 0 <= told["medveil_keeper_last_asked_seconds"] < 60

    asyncio.run(all_of_it())


# ---- what a keeper remembers -------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeper.db"


def marks(*numbers: int) -> list[bytes]:
    return [bytes([n]) * 32 for n in numbers]


def test_what_was_counted_and_given_outlives_the_process(path: Path) -> None:
    with closing(KeeperBook(path)) as book:
        book.admit("a", b"k" * 32, 3)
        book.charge("a", marks(1, 2))
        assert book.claim([(marks(1)[0], b"m" * 32)]) == [True]
    with closing(KeeperBook(path)) as book:
        assert book.key_of("a") == b"k" * 32
        assert book.key_of("b") is None
        book.charge("a", marks(2, 1, 3))  # only the third is new
        for wanted in (marks(4), marks(1, 4)):
            with pytest.raises(LimitReached):
                book.charge("a", wanted)
        assert book.claim([(marks(1)[0], b"n" * 32), (marks(2)[0], b"n" * 32)]) == [False, True]
        assert book.hospitals() == [("a", b"k" * 32, 3, 3)]
        book.admit("a", b"k" * 32, 4)
        book.charge("a", marks(4))
        assert [(e.what, e.hospital, e.count, e.total) for e in book.log()] == [
            ("admitted", "a", 3, 0),
            ("evaluated", "a", 2, 2),
            ("evaluated", "a", 1, 3),
            ("admitted", "a", 4, 3),
            ("evaluated", "a", 1, 4),
        ]


def test_more_persons_than_all_hospitals_have_are_given_to_nobody(path: Path) -> None:
    with closing(KeeperBook(path)) as book:
        book.admit("a", b"k" * 32, 1)
        book.admit("b", b"k" * 32, 1)
        one, other, third = ((mark, b"m" * 32) for mark in marks(1, 2, 3))
        book.claim([one])
        with pytest.raises(RegisterFull):
            book.claim([other, third])
        assert book.claim([one, other]) == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE log SET count = 1 WHERE number = 2",
        "UPDATE log SET hospital = 'b' WHERE number = 1",
        "DELETE FROM log WHERE number = 1",
    ],
)
def test_a_log_that_was_altered_is_named(path: Path, harm: str) -> None:
    with closing(KeeperBook(path)) as book:
        book.admit("a", b"k" * 32, 9)
        book.charge("a", marks(1, 2))
    with closing(sqlite3.connect(path)) as other:
        other.execute(harm)
        other.commit()
    with closing(KeeperBook(path)) as book, pytest.raises(BookDamaged):
        book.log()


def test_the_register_tells_no_hospital_no_time_and_no_order(path: Path) -> None:
    with closing(KeeperBook(path)) as book:
        book.admit("a", b"k" * 32, 9)
        book.claim([(mark, b"m" * 32) for mark in marks(3, 1, 2)])
    with closing(sqlite3.connect(path)) as other:
        assert [row[1] for row in other.execute("PRAGMA table_info(register)")] == ["tag", "mark"]
        assert [row[0] for row in other.execute("SELECT tag FROM register")] == marks(1, 2, 3)
        with pytest.raises(sqlite3.OperationalError):
            other.execute("SELECT rowid FROM register")


def test_a_file_that_is_no_book_is_named(path: Path) -> None:
    path.write_bytes(b"not a database, and longer than its head" * 100)
    with pytest.raises(BookDamaged):
        KeeperBook(path)


# ---- the keeper's folder -----------------------------------------------------------------------------------


def command(*words: str) -> str:
    found = CliRunner().invoke(app, ["keeper", *words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return " ".join(found.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keepers made and described by commands, each of which has adopted the file."""
    folder = tmp_path_factory.mktemp("made")
    make_certificates(folder / "tls", ("localhost",))
    authority = folder / "tls" / "ca.pem"
    for name in ("east", "west"):
        command(
            *("init", "--name", name, "--aggregator", "https://here", "--authority", str(authority)),
            *("--folder", str(folder / name)),
        )
    shown = [str(folder / name / "public.json") for name in ("east", "west")]
    out = str(folder / "persons.json")
    command("describe", "--name", "north", "--identifier", "NHS number", *shown, "--out", out)
    for name in ("east", "west"):
        command("adopt", out, "--folder", str(folder / name))
    return folder


def test_a_keepers_secrets_are_its_owners_alone_and_no_command_shows_them(made: Path) -> None:
    found = KeeperFolder.load(made / "east")
    for path in (found.key, found.evaluation, found.sealing):
        assert path.stat().st_mode & 0o077 == 0
    shown = found.public.read_text() + repr(found.keys())
    assert found.evaluation.read_bytes().hex() not in shown
    assert found.described() in found.persons().keepers


@pytest.mark.slow
def test_hospitals_that_the_operator_admits_are_answered_and_the_log_tells_of_it(made: Path) -> None:
    at = ("--folder", str(made / "east"))
    command("admit", "st-marys", "--key", HOSPITAL.public_key.hex(), "--patients", "2", *at)
    folder = KeeperFolder.load(made / "east")
    persons = folder.persons()
    keeper = persons.keepers[0]
    forms = [identifier_form("1"), identifier_form("2")]
    asked = ask(persons, keeper, forms, identity=HOSPITAL, secret=Secret(b"s" * 32))
    with closing(KeeperBook(folder.book)) as book:
        side = side_of(folder, book)
        assert len(asked.outputs(side.answer(asked.request))) == 2
    assert "st-marys evaluated 2" in command("log", *at)
    with pytest.raises(BadOption):
        command("admit", "st-marys", "--key", "short", "--patients", "2", *at)


def test_a_keeper_keeps_one_file_for_life_and_only_with_its_own_keys(made: Path, tmp_path: Path) -> None:
    folder = KeeperFolder.load(made / "west")
    persons = folder.persons()
    folder.adopt(persons)
    with pytest.raises(PersonsForLife):
        folder.adopt(persons.model_copy(update={"name": "south"}))
    stranger = public("east", new_keys())
    with pytest.raises(OtherKeys):
        folder.adopt(persons.model_copy(update={"keepers": (stranger, persons.keepers[0])}))
    with pytest.raises(BadOption):
        write_persons(made / "persons.json", "north", "x", [])
    with pytest.raises(BadOption):
        write_persons(tmp_path / "new.json", "north", "x", [folder.public])
    with pytest.raises(NoKeeper):
        KeeperFolder.load(tmp_path)
    bare = KeeperFolder(tmp_path, KeeperSettings(name="bare", aggregator="https://here"))
    with pytest.raises(NoPersons):
        bare.persons()
    with pytest.raises(BadFile):
        bare.keys()


class Postman:
    """Hands out letters, some of which nobody can answer, and ends the keeper when there is none left."""

    def __init__(self, letters: list[Letter | Exception]) -> None:
        self.letters, self.answers = letters, dict[str, bytes]()
        self.over = asyncio.Event()

    async def next(self, wait_s: float) -> Letter | None:
        if not self.letters:
            self.over.set()
            await asyncio.Event().wait()
        one = self.letters.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    async def answer(self, letter: str, body: bytes) -> None:
        if letter == "1" * 32:
            raise AggregatorRefuses(reason="nobody waits", told="not-found")
        self.answers[letter] = body


@pytest.mark.slow
def test_a_keeper_goes_on_whatever_comes_and_whatever_is_lost(made: Path) -> None:
    folder = KeeperFolder.load(made / "east")

    async def all_of_it(side: Any) -> Postman:
        lost = AggregatorRefuses(reason="the line is down")
        letters = [Letter(id=d * 32, body=b"?") for d in "012"]
        postman = Postman([lost, *letters])
        keeping = asyncio.create_task(answer_letters(side, postman, pause_s=0.0))
        await postman.over.wait()
        keeping.cancel()
        return postman

    with closing(KeeperBook(folder.book)) as book:
        postman = asyncio.run(all_of_it(side_of(folder, book)))
    assert {i: Answer.from_bytes(b).refusal for i, b in postman.answers.items()} == {
        "0" * 32: "bad-message",
        "2" * 32: "bad-message",
    }


def test_a_persons_file_reads_as_it_was_written(made: Path) -> None:
    text = (made / "persons.json").read_bytes()
    assert Persons.model_validate_json(text) == KeeperFolder.load(made / "east").persons()
