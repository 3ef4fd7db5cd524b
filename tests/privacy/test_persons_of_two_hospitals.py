"""Hospitals and keepers, bytes in and bytes out: one person has one tag, and one hospital."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from keepers import Book, Consortium, consortium
from medveil.identity import Identity, Secret
from medveil.messages import BadMessage
from medveil.persons import NoIdentifier, Persons, identifier_form
from privacy.oprf.errors import BadEvaluation
from privacy.oprf.hospital import KeeperRefuses, ask, tags
from privacy.oprf.messages import BATCH, Answer, Evaluated, Request
from privacy.oprf.sealing import BadBox


@pytest.fixture(scope="module")
def north() -> Consortium:
    return consortium()


def test_a_person_has_one_tag_in_every_hospital_and_others_have_others(north: Consortium) -> None:
    a, b = (north.tags(name, ["943 476 5919", "Müller-7"]) for name in ("a", "b"))
    assert a == b
    assert len(set(a)) == 2
    assert north.tags("a", ["943-476-5919"]) == a[:1]
    assert north.tags("a", ["9434765918"])[0] not in a


def test_the_first_who_claims_a_person_has_the_person_for_ever() -> None:
    them = consortium()
    assert them.claim("a", ["1", "2"]) == [True, True]
    assert them.claim("b", ["2", "3"]) == [False, True]
    assert them.claim("a", ["1", "2", "3"]) == [True, True, False]  # asked again, nothing changes
    assert them.claim("b", ["2", "3"]) == [False, True]


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)),
        max_size=5,
    ),
    liar=st.sampled_from([None, 0, 1]),
)
def test_no_person_is_ever_two_hospitals_though_one_keeper_says_yes_to_everybody(
    asked: list[tuple[str, list[int]]], liar: int | None
) -> None:
    them = consortium()
    if liar is not None:
        them.books[liar].lies = True
    owners: dict[int, set[str]] = {}
    for hospital, people in asked:
        for person, given_ in zip(people, them.claim(hospital, [str(p) for p in people]), strict=True):
            if given_:
                owners.setdefault(person, set()).add(hospital)
    assert all(len(hospitals) == 1 for hospitals in owners.values())


def test_no_keeper_alone_can_make_a_tag_and_no_two_keepers_see_the_same_one(north: Consortium) -> None:
    one = north.outputs("a", ["1"])
    whole = tags(north.persons, one)
    for i in range(2):
        half = [list(each) for each in one]
        half[i] = [bytes(32)]
        assert tags(north.persons, half) != whole
    them = consortium()
    them.claim("a", ["1"])
    first, second = (set(book.register) for book in them.books)
    assert first
    assert second
    assert not first & second


def test_nothing_that_a_keeper_holds_names_a_hospital_beside_a_person() -> None:
    them = consortium()
    them.claim("a", ["1"])
    them.claim("b", ["1"])
    held = repr(them.books[0].register)
    assert len(them.books[0].register) == 1
    assert not any(word in held for word in ("hospital", "'a'", "'b'"))


def test_a_batch_is_evaluated_whole_or_not_at_all_and_a_repeat_costs_nothing() -> None:
    them = consortium(limit=3)
    them.tags("a", ["1", "2"])
    them.tags("a", ["1", "2"])
    with pytest.raises(KeeperRefuses) as caught:
        them.tags("a", ["3", "4"])
    assert caught.value.told == "keeper-limit"
    them.tags("a", ["3", "1"])
    assert [len(book.counted["a"]) for book in them.books] == [3, 3]
    assert them.tags("b", ["4"])  # one hospital's limit is not another's


def sent(them: Consortium, hospital: str = "a", **other: Any) -> tuple[Any, bytes]:
    """A request, and the answer of the first keeper to it."""
    keeper = them.persons.keepers[0]
    asked = ask(
        other.get("persons", them.persons),
        keeper,
        [identifier_form("1")],
        identity=other.get("identity", them.identities[hospital]),
        secret=Secret(b"s" * 32),
    )
    return asked, them.sides[0].answer(asked.request)


def test_who_is_not_admitted_or_has_another_key_or_file_is_refused(north: Consortium) -> None:
    strangers = {
        "keeper-unknown-hospital": {"identity": Identity.generate("stranger")},
        "bad-signature": {"identity": Identity.generate("a")},
        "keeper-other-persons": {"persons": north.persons.model_copy(update={"name": "south"})},
    }
    for code, other in strangers.items():
        asked, answer = sent(north, **other)
        with pytest.raises(KeeperRefuses) as caught:
            asked.outputs(answer)
        assert caught.value.told == code


def test_an_altered_request_counts_nothing() -> None:
    them = consortium()
    asked, _ = sent(them)
    before = [len(v) for v in them.books[0].counted.values()]
    for place in range(0, len(asked.request), 7):
        data = bytearray(asked.request)
        data[place] ^= 1
        assert Answer.from_bytes(them.sides[0].answer(bytes(data))).refusal
    assert [len(v) for v in them.books[0].counted.values()] == before


def test_a_lying_keeper_and_a_lying_messenger_are_named(north: Consortium) -> None:
    asked, answer = sent(north)
    body = Answer.from_bytes(answer).body
    told = Evaluated.from_bytes(body)
    asked.outputs(answer)
    for bad in (
        told.model_copy(update={"elements": (asked.sent[0].element.to_bytes(),)}),
        told.model_copy(update={"elements": (bytes(33),)}),
        told.model_copy(update={"elements": told.elements * 2}),
        told.model_copy(update={"proof": bytes(64)}),
    ):
        with pytest.raises(BadEvaluation):
            asked.outputs(Answer(body=bad.to_bytes()).to_bytes())
    with pytest.raises(BadMessage):
        asked.outputs(b"nonsense")
    with pytest.raises(KeeperRefuses) as caught:
        asked.outputs(Answer(refusal="never-heard-of").to_bytes())
    assert caught.value.told == ""


def test_the_messenger_sees_no_tag_and_can_change_no_answer(north: Consortium) -> None:
    person = north.tags("a", ["17"])
    claimed, answer = north.claimed("a", person, 0)
    other, _ = north.claimed("a", north.tags("a", ["17", "18"]), 0)
    assert len(claimed.request) == len(other.request)  # nor how many are claimed
    assert person[0] not in claimed.request
    assert claimed.given(answer) == [True]
    with pytest.raises(BadBox):
        other.given(answer)
    body = bytearray(Answer.from_bytes(answer).body)
    body[-1] ^= 1
    with pytest.raises(BadBox):
        claimed.given(Answer(body=bytes(body)).to_bytes())
    _, answer = north.claimed("a", person, 0, to=1)
    assert Answer.from_bytes(answer).refusal == "bad-box"


def test_a_request_of_nonsense_is_answered_by_a_code(north: Consortium) -> None:
    for data in (b"", b"\xff" * 40, Request(kind="claim", body=b"?").to_bytes()):
        assert Answer.from_bytes(north.sides[0].answer(data)).refusal == "bad-message"


def test_a_full_register_gives_nobody() -> None:
    them = consortium(limit=2)
    them.books[0].most = 2
    person = [bytes([i]) * 32 for i in range(3)]
    _, answer = them.claimed("a", person, 0)
    assert Answer.from_bytes(answer).refusal == "keeper-full"
    assert not them.books[0].register


def test_most_of_a_batch_is_what_a_message_holds(north: Consortium) -> None:
    claimed, answer = north.claimed("a", [bytes([i]) * 32 for i in range(BATCH)], 0)
    assert claimed.given(answer) == [True] * BATCH


@pytest.mark.parametrize(
    "same",
    [
        [
            "9434765919",
            "943 476 5919",
            "943-476-5919",
            " 943.476.5919 ",
            "９４３４７６５９１９",
            "'9434765919",
        ],
        ["AB123456C", "ab 12 34 56 c", "AB-123456-C"],
        ["007", "7", "00 7"],
    ],
)
def test_an_identifier_has_one_form_however_it_is_written(same: list[str]) -> None:
    assert len({identifier_form(one) for one in same}) == 1


def test_cells_of_an_identifier_do_not_run_together_and_none_may_be_empty() -> None:
    assert identifier_form("ab", "c") != identifier_form("a", "bc")
    for empty in ("", " ", "n/a", "1.23457E+11", "--", "#NAME?"):
        with pytest.raises(NoIdentifier):
            identifier_form("Miller", empty)


def test_a_persons_file_has_two_keepers_that_differ(north: Consortium) -> None:
    content = north.persons.model_dump(mode="json")
    one, other = content["keepers"]
    bad: Sequence[Any] = ([one], [one, one], [one, other | {"evaluation": one["evaluation"]}])
    for keepers in bad:
        with pytest.raises(ValidationError):
            Persons.model_validate(content | {"keepers": keepers})
    assert north.persons.hash != Persons.model_validate(content | {"keepers": [other, one]}).hash
    assert isinstance(north.books[0], Book)
