"""What the journal holds is done for ever: one vector from each model, until its sum is shut for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_node.journal import ForeignJournal, Journal
from hospital_node.orders import Orders, TakesNoPart
from hospital_node.steps import AlreadyDone, ModelInUse
from medveil.errors import LocalProtocolError
from medveil.identity import Identity
from medveil.plan import Plan, sign_approval
from medveil.rounds import AttemptKey
from tries import tries
from world import make_plan, make_study

MODEL = b"m" * 32
PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def join(journal: Journal, plan: str, number: int, attempt: int, model: bytes = MODEL, **more: int) -> None:
    journal.join(AttemptKey(plan, number, attempt), model=model, **more)


def send(journal: Journal, plan: str, number: int, attempt: int, model: bytes = MODEL, **more: int) -> None:
    """Join, and let the masked vector go."""
    join(journal, plan, number, attempt, model, **more)
    journal.upload(AttemptKey(plan, number, attempt), advertised=(1, 2, 3))


def settle(journal: Journal, plan: str, model: bytes = MODEL) -> None:
    for start in journal.in_use(model, plan, 0):
        journal.settle(start, b"a checked certificate")


def statements(journal: Journal) -> list[str]:
    """What is asked of the file through the library from now on."""
    asked: list[str] = []
    sa.event.listen(journal.engine, "before_cursor_execute", lambda *told: asked.append(str(told[2])))
    return asked


def test_what_nobody_has_written_since_is_not_read_again_and_what_anybody_has_is_read_at_once(
    journal: Journal, path: Path
) -> None:
    orders, asked, other = Orders(journal), statements(journal), Journal(path)
    for _ in range(3):
        orders.check("plan")
        assert (orders.holds(), journal.alarm("plan"), journal.heads.newest()) == ((), None, None)
    assert len(asked) == 4
    Orders(other).say("plan", "withdrawn", "no more", bytes(64))  # another process
    with pytest.raises(TakesNoPart):
        orders.check("plan")
    orders.check("another plan")
    orders.hold("plan", "pause")  # this one
    assert [one.kind for one in orders.holds()] == ["pause"]
    other.close()


def test_where_nobody_can_tell_whether_anything_was_written_each_question_is_asked(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = Orders(journal)
    assert orders.holds() == ()
    journal._unchanged.close()
    monkeypatch.setattr(journal._unchanged, "_link", "no connection")
    asked = statements(journal)
    assert (orders.holds(), orders.holds()) == ((), ())
    assert len(asked) == 2
    monkeypatch.undo()


def test_an_attempt_is_joined_once_even_after_a_restart(journal: Journal, path: Path) -> None:
    join(journal, "plan", 1, 1)
    with pytest.raises(AlreadyDone):
        join(journal, "plan", 1, 1)
    again = Journal(path)
    with pytest.raises(AlreadyDone):
        join(again, "plan", 1, 1)
    join(again, "plan", 1, 2)
    again.close()
    with pytest.raises(AlreadyDone):
        join(journal, "plan", 1, 2)


def test_an_earlier_attempt_or_round_is_not_joined(journal: Journal) -> None:
    join(journal, "plan", 2, 3)
    for number, attempt in ((2, 2), (2, 3), (1, 1), (1, 9)):
        with pytest.raises(AlreadyDone):
            join(journal, "plan", number, attempt)
    join(journal, "plan", 2, 4)
    join(journal, "plan", 3, 1)


@pytest.mark.parametrize("where", [("plan", 1, 2), ("plan", 2, 1), ("plan", 9, 1), ("other", 1, 1)])
@pytest.mark.parametrize("step", ["upload", "agree", "unmask"])
def test_once_a_vector_has_left_nothing_starts_from_its_model_in_any_attempt_round_or_plan(
    journal: Journal, path: Path, where: tuple[str, int, int], step: str
) -> None:
    send(journal, "plan", 1, 1)
    if step != "upload":
        journal.note(AttemptKey("plan", 1, 1), step)
    for opened in (journal, Journal(path)):
        with pytest.raises(ModelInUse) as caught:
            join(opened, *where)
        assert (caught.value.start.plan, caught.value.start.key) == ("plan", "1.1")
    opened.close()
    join(journal, "plan", 2, 1, b"n" * 32)  # another model is another matter
    join(journal, "other", 2, 1, b"o" * 32)


def test_a_settled_attempt_is_no_obstacle_and_stays_settled(journal: Journal, path: Path) -> None:
    send(journal, "plan", 1, 1)
    settle(journal, "plan")
    again = Journal(path)
    send(again, "plan", 1, 2)
    with pytest.raises(ModelInUse) as caught:
        join(again, "plan", 2, 1)
    assert caught.value.start.key == "1.2"
    settle(again, "plan")
    join(again, "other", 1, 1)
    again.close()


def test_the_published_sum_lets_a_plan_go_on_and_never_lets_another_start_from_its_model(
    journal: Journal,
) -> None:
    send(journal, "plan", 1, 1)
    join(journal, "plan", 2, 1, b"n" * 32, came_from=1)
    with pytest.raises(ModelInUse):
        join(journal, "second epoch", 1, 1)
    with pytest.raises(ModelInUse):
        join(journal, "plan", 3, 1, came_from=2)  # a sum that led back to where it began


def test_giving_up_and_unmasking_exclude_each_other_even_after_a_restart(path: Path) -> None:
    for first, second in (("unmask", "abort"), ("abort", "unmask")):
        for restart in (False, True):
            path.unlink(missing_ok=True)
            journal = Journal(path)
            send(journal, "plan", 1, 1)
            steps_of = {
                "unmask": lambda j: j.note(AttemptKey("plan", 1, 1), "unmask"),
                "abort": lambda j: j.give_up(AttemptKey("plan", 1, 1)),
            }
            steps_of[first](journal)
            if restart:
                journal.close()
                journal = Journal(path)
            with pytest.raises(AlreadyDone, match=first):
                steps_of[second](journal)
            journal.close()


def test_giving_up_is_repeated_and_stops_every_later_step(journal: Journal, path: Path) -> None:
    join(journal, "plan", 1, 1)
    assert journal.give_up(AttemptKey("plan", 1, 1)) == MODEL
    before = path.read_bytes()
    assert journal.give_up(AttemptKey("plan", 1, 1)) == MODEL
    assert path.read_bytes() == before
    with pytest.raises(AlreadyDone, match="abort"):
        journal.upload(AttemptKey("plan", 1, 1), advertised=(1, 2, 3))
    send(journal, "plan", 2, 1)
    journal.give_up(AttemptKey("plan", 2, 1))
    for step in ("agree", "unmask"):
        with pytest.raises(AlreadyDone, match="abort"):
            journal.note(AttemptKey("plan", 2, 1), step)


def test_what_was_never_joined_cannot_be_given_up(journal: Journal, path: Path) -> None:
    join(journal, "plan", 1, 1)
    before = path.read_bytes()
    for where in (("plan", 1, 2), ("plan", 5, 1), ("other", 1, 1)):
        with pytest.raises(AlreadyDone):
            journal.give_up(AttemptKey(*where))
    assert path.read_bytes() == before


def test_of_two_attempts_from_one_model_only_the_later_one_sends_its_vector(journal: Journal) -> None:
    join(journal, "plan", 1, 1)
    join(journal, "other", 1, 1)
    with pytest.raises(AlreadyDone):
        journal.upload(AttemptKey("plan", 1, 1), advertised=(1, 2, 3))
    journal.upload(AttemptKey("other", 1, 1), advertised=(1, 2, 3))
    with pytest.raises(AlreadyDone):
        journal.upload(AttemptKey("third", 1, 1), advertised=(1, 2, 3))  # never joined


def test_unsettled_attempts_are_told_until_their_version_is_there(journal: Journal) -> None:
    send(journal, "plan", 1, 1)
    send(journal, "plan", 2, 1, b"n" * 32, came_from=1)
    assert [s.key for s in journal.unsettled("plan", 0)] == ["1.1", "2.1"]
    assert [s.key for s in journal.unsettled("plan", 1)] == ["2.1"]
    settle(journal, "plan", b"n" * 32)
    assert journal.unsettled("plan", 1) == []
    assert (journal.uploads("plan", 2), journal.uploads("plan", 3)) == (1, 0)


@pytest.mark.parametrize("step", ["upload", "agree", "unmask"])
def test_a_step_is_noted_once_even_after_a_restart(journal: Journal, path: Path, step: str) -> None:
    def note(opened: Journal, attempt: int) -> None:
        if step == "upload":
            opened.upload(AttemptKey("plan", 1, attempt), advertised=(1, 2, 3))
        else:
            opened.note(AttemptKey("plan", 1, attempt), step, "told")

    join(journal, "plan", 1, 1)
    if step != "upload":
        with pytest.raises(AlreadyDone, match="has not left"):
            note(journal, 1)
        journal.upload(AttemptKey("plan", 1, 1), advertised=(1, 2, 3))
    note(journal, 1)
    with pytest.raises(AlreadyDone, match=step):
        note(journal, 1)
    again = Journal(path)
    with pytest.raises(AlreadyDone, match=step):
        note(again, 1)
    again.close()


def test_a_refused_step_leaves_the_file_as_it_was(journal: Journal, path: Path) -> None:
    send(journal, "plan", 2, 1)
    before = path.read_bytes()
    for number, attempt in ((1, 1), (2, 1), (2, 2), (3, 1)):
        with pytest.raises(LocalProtocolError):
            join(journal, "plan", number, attempt)
    assert path.read_bytes() == before


def old_journal(path: Path, plan: Plan, *taken: tuple[int, int, str]) -> Journal:
    """A journal as the version before wrote it: steps without models."""
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript(
            """
            CREATE TABLE approvals (plan VARCHAR NOT NULL, text VARCHAR NOT NULL, signature BLOB NOT NULL,
                PRIMARY KEY (plan));
            CREATE TABLE steps (plan VARCHAR NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
                step VARCHAR NOT NULL, detail VARCHAR NOT NULL, PRIMARY KEY (plan, round, attempt, step));
            """
        )
        file.execute("INSERT INTO approvals VALUES (?, ?, ?)", (plan.id, plan.model_dump_json(), b"s"))
        rows = [(plan.id, number, attempt, step, "") for number, attempt, step in taken]
        file.executemany("INSERT INTO steps VALUES (?, ?, ?, ?, ?)", rows)
    return Journal(path)


@pytest.mark.parametrize("left", ["upload", "agree", "unmask"])
def test_what_an_older_version_noted_binds_as_far_as_it_is_known(path: Path, left: str) -> None:
    plan = make_plan(PEOPLE, make_study())
    first = bytes.fromhex(plan.study.model.initial_model)
    journal = old_journal(path, plan, (1, 1, "join"), (1, 1, left))
    assert journal.detail(AttemptKey(plan.id, 1, 1), left) == ""  # nothing is lost
    for where in ((plan.id, 1, 2), (plan.id, 2, 1), ("other", 1, 1)):
        with pytest.raises(ModelInUse):
            join(journal, *where, first)
    journal.close()
    path.unlink()
    journal = old_journal(path, plan, (1, 1, "join"), (1, 1, left), (4, 1, "join"), (4, 1, left))
    with pytest.raises(ModelInUse, match="older version"):
        join(journal, plan.id, 5, 1, came_from=3)  # whatever model it is
    with pytest.raises(AlreadyDone):
        journal.give_up(AttemptKey(plan.id, 4, 1))
    join(journal, plan.id, 5, 1, came_from=4)
    journal.close()
    again = Journal(path)
    assert [s.key for s in again.unsettled(plan.id, 0)] == ["1.1", "4.1"]
    again.close()


def test_an_old_attempt_in_which_nothing_left_is_no_obstacle(path: Path) -> None:
    plan = make_plan(PEOPLE, make_study())
    journal = old_journal(path, plan, (1, 1, "join"))
    with pytest.raises(AlreadyDone):
        join(journal, plan.id, 1, 1)
    send(journal, plan.id, 1, 2, bytes.fromhex(plan.study.model.initial_model))
    journal.close()


def test_approvals_survive_and_are_kept_once(journal: Journal, path: Path) -> None:
    plan = make_plan(PEOPLE, make_study())
    signature = sign_approval(plan, PEOPLE[0])
    for _ in range(2):
        journal.approve(plan, signature)
    again = Journal(path)
    assert again.approved() == [(plan, signature)]
    again.close()


actions = st.tuples(
    st.sampled_from(["plan", "other"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([b"m" * 32, b"n" * 32]),
    st.sampled_from(["join", "upload", "unmask", "give up", "settle", "reopen"]),
)


@settings(max_examples=tries(60), deadline=None)
@given(st.lists(actions, max_size=14))
def test_no_two_vectors_from_one_model_are_out_unless_all_but_the_last_are_settled(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple[str, int, int, bytes, str]]
) -> None:
    path = tmp_path_factory.mktemp("journal", numbered=True) / "journal.db"
    journal = Journal(path)
    models: dict[tuple[str, int, int], bytes] = {}
    out: dict[bytes, set[tuple[str, int, int]]] = {}
    vowed, unmasked = set(), set()
    for plan, number, attempt, model, action in taken:
        key = (plan, number, attempt)
        with suppress(LocalProtocolError):
            if action == "reopen":
                journal.close()
                journal = Journal(path)
            elif action == "join":
                join(journal, *key, model)
                assert key > max((k for k in models if k[0] == plan), default=("", 0, 0))
                assert not out.get(model)
                models[key] = model
            elif action == "upload":
                journal.upload(AttemptKey(*key), advertised=(1, 2, 3))
                out.setdefault(models[key], set()).add(key)
                assert len(out[models[key]]) == 1
            elif action == "unmask":
                journal.note(AttemptKey(*key), "unmask")
                unmasked.add(key)
            elif action == "give up":
                journal.give_up(AttemptKey(*key))
                vowed.add(key)
            else:
                settle(journal, plan, model)
                out.pop(model, None)
        assert not vowed & unmasked
    journal.close()


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t AFTER INSERT ON approvals BEGIN DELETE FROM approvals; END",
        "CREATE VIEW v AS SELECT * FROM approvals",
    ],
)
def test_a_journal_in_which_something_acts_by_itself_is_not_opened(tmp_path: Path, planted: str) -> None:
    Journal(tmp_path / "journal.db").close()
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as link:
        link.execute(planted)
    with pytest.raises(ForeignJournal):
        Journal(tmp_path / "journal.db")


def test_a_command_may_open_the_journal_while_its_node_joins_an_attempt(journal: Journal, path: Path) -> None:
    """The operator's page does so every second: between its two looks an attempt is joined."""
    looks = []
    with closing(Journal(path)) as page:

        @sa.event.listens_for(page.engine, "before_cursor_execute")
        def meanwhile(*_: object) -> None:
            looks.append(None)
            if len(looks) == 2:
                join(journal, "plan", 1, 1)

        page.take_over(dict)
    assert len(looks) == 2
    with pytest.raises(AlreadyDone):
        join(journal, "plan", 1, 1)
