"""What the journal holds is done for ever: no attempt is joined twice, no round unmasked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_node.store import AlreadyDone, Journal
from medveil.identity import Identity
from medveil.plan import sign_approval
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def test_an_attempt_is_joined_once_even_after_a_restart(journal: Journal, path: Path) -> None:
    journal.join("plan", 1, 1)
    with pytest.raises(AlreadyDone):
        journal.join("plan", 1, 1)
    again = Journal(path)
    with pytest.raises(AlreadyDone):
        again.join("plan", 1, 1)
    again.join("plan", 1, 2)
    again.close()
    with pytest.raises(AlreadyDone):
        journal.join("plan", 1, 2)


def test_an_earlier_attempt_or_round_is_not_joined(journal: Journal) -> None:
    journal.join("plan", 2, 3)
    for number, attempt in ((2, 2), (2, 3), (1, 1), (1, 9)):
        with pytest.raises(AlreadyDone):
            journal.join("plan", number, attempt)
    journal.join("plan", 2, 4)
    journal.join("plan", 3, 1)


def test_after_unmasking_only_the_next_round_is_joined(journal: Journal, path: Path) -> None:
    journal.join("plan", 1, 1)
    journal.note("plan", 1, 1, "unmask")
    again = Journal(path)
    with pytest.raises(AlreadyDone, match="helped to unmask"):
        again.join("plan", 1, 2)
    again.join("plan", 2, 1)
    again.close()


def test_plans_do_not_disturb_each_other(journal: Journal) -> None:
    journal.join("plan", 5, 1)
    journal.note("plan", 5, 1, "unmask")
    journal.join("other", 1, 1)
    journal.note("other", 1, 1, "unmask")


@pytest.mark.parametrize("step", ["upload", "agree", "unmask"])
def test_a_step_is_noted_once_even_after_a_restart(journal: Journal, path: Path, step: str) -> None:
    journal.join("plan", 1, 1)
    journal.note("plan", 1, 1, step, "first")
    with pytest.raises(AlreadyDone, match=step):
        journal.note("plan", 1, 1, step, "second")
    again = Journal(path)
    with pytest.raises(AlreadyDone, match=step):
        again.note("plan", 1, 1, step, "first")
    again.note("plan", 1, 2, step)
    again.close()


def test_a_refused_step_leaves_the_file_as_it_was(journal: Journal, path: Path) -> None:
    journal.join("plan", 2, 1)
    before = path.read_bytes()
    for attempt in (lambda: journal.join("plan", 1, 1), lambda: journal.join("plan", 2, 1)):
        with pytest.raises(AlreadyDone):
            attempt()
    assert path.read_bytes() == before


def test_approvals_survive_and_are_kept_once(journal: Journal, path: Path) -> None:
    plan = make_plan(PEOPLE, make_study())
    signature = sign_approval(plan, PEOPLE[0])
    for _ in range(2):
        journal.approve(plan, signature)
    again = Journal(path)
    assert again.approved() == [(plan, signature)]
    again.close()


steps = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["join", "unmask", "reopen"]))


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=10))
def test_joined_attempts_only_ever_go_up_and_never_past_an_unmasking(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("journal", numbered=True) / "journal.db"
    journal, joined, unmasked = Journal(path), [(0, 0)], set()
    for number, attempt, action in actions:
        if action == "reopen":
            journal.close()
            journal = Journal(path)
        elif action == "unmask" and (number, attempt) in joined and number not in unmasked:
            journal.note("plan", number, attempt, "unmask")
            unmasked.add(number)
        elif action == "join":
            allowed = (number, attempt) > max(joined) and number not in unmasked
            if allowed:
                journal.join("plan", number, attempt)
                joined.append((number, attempt))
            else:
                with pytest.raises(AlreadyDone):
                    journal.join("plan", number, attempt)
    journal.close()
