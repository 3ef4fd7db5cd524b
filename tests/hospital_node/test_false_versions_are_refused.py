"""A node trains on no model that does not follow from sums it has checked, whatever proves it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chain import Chain, Sum
from follower import Hospital
from hospital_node.line import AggregatorProblem
from hospital_node.lineage import WrongModel
from medveil.errors import Error
from medveil.rounds import RoundKind
from medveil.tensors import model_hash, to_safetensors
from privacy.secagg import node
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Advertised
from tries import leading
from world import SPEC, START, unit

At = Callable[..., Hospital]


def test_a_model_that_does_not_follow_from_the_sum_is_refused_until_the_operator_has_looked(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.grow(1))
    other = model_hash(chain.newest.vector + np.float32(2**-20), SPEC)
    assert "nothing leads" in hospital.refuses("broken-lineage", 2, other)
    alarm = hospital.journal.alarm(chain.plan.id)
    assert alarm is not None
    assert (alarm.version, alarm.claimed, alarm.computed) == (1, other.hex(), chain.newest.model.hex())
    hospital.journal.clear_alarm(chain.plan.id)
    assert hospital.reach(2).tobytes() == chain.newest.vector.tobytes()


def altered(made: Sum, lane: int = 0) -> bytes:
    """The sum with one step more in one lane of its first word: a change that no range check sees."""
    words = np.frombuffer(made.data, "<u8").copy()
    words[0] += np.uint64(1 << (21 * lane))
    return words.tobytes()


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_a_member_sees_that_one_lane_of_the_sum_was_altered(at: At, lane: int) -> None:
    chain = Chain()
    hospital = at(chain)
    made = chain.attempt(1)
    hospital.join(made)
    chain.publish(replace(made, data=altered(made, lane)))
    chain.lie(1, data=altered(made, lane))
    hospital.refuses("altered-sum", 2)  # although model, hash and proof fit the altered sum


def test_a_hospital_whose_upload_came_too_late_sees_it_too(at: At) -> None:
    chain = Chain()
    hospital = at(chain, index=4)
    made = chain.attempt(1, survivors=(1, 2, 3))
    hospital.join(made)
    chain.publish(replace(made, data=altered(made)))
    chain.lie(1, data=altered(made))
    hospital.refuses("altered-sum", 2)


def test_a_hospital_outside_the_sum_does_not_see_it_but_no_other_hospital_works_with_it(at: At) -> None:
    chain, honest = Chain(), Chain()
    honest.identities, honest.plan = chain.identities, chain.plan
    made = chain.attempt(1, members=(1, 2, 3))
    honest.publish(made)
    chain.publish(replace(made, data=altered(made)))
    chain.lie(1, data=altered(made))
    deceived, member = at(chain, index=4), at(honest, index=1)
    member.join(made)
    # Not caught: it has no key for the check word of a sum that it is not in.
    assert deceived.reach(2).tobytes() == chain.newest.vector.tobytes()
    assert chain.newest.model != honest.newest.model
    # But it signs its next keys for the altered model, the members for the true one; nobody takes both.
    parties = {}
    for index, one in ((4, deceived), (1, member), (2, member), (3, member)):
        named = one.chain.newest.model
        if index in (1, 4):
            one.reach(2)
        setting = setting_for(chain.plan, number=2, attempt=1, kind=RoundKind.TRAIN, model=named)
        party = node.Party(setting, index, chain.identities[index - 1])
        parties[index] = node.advertise(party, secrets.token_bytes)
    seen = Advertised(messages=tuple(message for _, message in parties.values()))
    for state, _ in parties.values():
        with pytest.raises(node.Refused, match="not valid for this plan, round and model"):
            node.share(state, seen, secrets.token_bytes)
    # And told the truth again, it finds that nothing leads there from the altered model.
    honest.grow(2)
    chain.sums[2] = honest.sums[2]
    assert "these hospitals, round and parent" in deceived.refuses("broken-lineage", 3, honest.newest.model)


def test_an_altered_sum_under_the_true_model_is_seen_by_everybody(at: At) -> None:
    chain = Chain()
    made = chain.grow(1, members=(1, 2, 3))
    chain.lie(1, data=altered(made))
    hospital = at(chain, index=4)
    hospital.refuses("broken-lineage", 2)


def too_few(chain: Chain) -> None:
    chain.lie(1, signatures={i: s for i, s in chain.signatures(1).items() if i < 3})


def one_of_them_for_everybody(chain: Chain) -> None:
    chain.lie(1, signatures={i: chain.signatures(1)[1] for i in range(1, 5)})


def of_another_attempt(chain: Chain) -> None:
    chain.lie(1, signatures=chain.attempt(1, 2, parent=chain.versions[0].model).published.signatures)


def of_another_round(chain: Chain) -> None:
    chain.lie(1, signatures=chain.attempt(2, parent=chain.versions[0].model).published.signatures)


def of_another_parent(chain: Chain) -> None:
    chain.lie(1, signatures=chain.attempt(1, parent=b"x" * 32).published.signatures)


def of_three(chain: Chain) -> dict[int, bytes]:
    return {i: signature for i, signature in chain.signatures(1).items() if i < 4}


def for_other_survivors(chain: Chain) -> None:
    chain.lie(1, survivors=(1, 2, 3), signatures=of_three(chain))


def for_other_members(chain: Chain) -> None:
    chain.lie(1, members=(1, 2, 3), survivors=(1, 2, 3), signatures=of_three(chain))


def of_another_transcript(chain: Chain) -> None:
    chain.lie(1, transcript=b"t" * 32)


def forged(chain: Chain) -> None:
    chain.lie(1, signatures={i: bytes(64) for i in chain.signatures(1)})


def of_a_hospital_outside_the_sum(chain: Chain) -> None:
    made = chain.attempt(1, parent=chain.versions[0].model, survivors=(1, 2, 3))
    signatures = {4: made.published.signatures[1], **made.published.signatures}
    chain.lie(1, **dict(made.published.model_copy(update={"signatures": signatures})))


def of_nobody(chain: Chain) -> None:
    chain.lie(1, signatures={})


def from_a_cohort_of_two(chain: Chain) -> None:
    chain.lie(1, survivors=(1, 2))


def from_hospitals_that_are_not_in_the_plan(chain: Chain) -> None:
    chain.lie(1, members=(1, 2, 3, 9))


def with_a_hospital_twice(chain: Chain) -> None:
    chain.lie(1, members=(1, 2, 2, 3, 4))


def with_another_round(chain: Chain) -> None:
    chain.lie(1, round=2)


def with_another_attempt(chain: Chain) -> None:
    chain.lie(1, attempt=2)


def with_a_round_to_come(chain: Chain) -> None:
    chain.lie(1, round=3)


def with_a_truncated_sum(chain: Chain) -> None:
    chain.lie(1, data=chain.sums[1].data[:-8])


def with_a_longer_sum(chain: Chain) -> None:
    chain.lie(1, data=chain.sums[1].data + bytes(8))


def with_another_sum_than_its_hash(chain: Chain) -> None:
    chain.lie(1, sum_hash=b"h" * 32)


def with_a_sum_out_of_range(chain: Chain) -> None:
    chain.lie(1, data=b"\xff" * len(chain.sums[1].data))


def with_the_sum_of_another_attempt(chain: Chain) -> None:
    updates = {i: unit(5) for i in range(1, 5)}
    chain.lie(1, data=chain.attempt(1, 2, parent=chain.versions[0].model, updates=updates).data)


def with_a_sum_of_broken_words(chain: Chain) -> None:
    chain.lie(1, data=chain.sums[1].data[:-3])


NAMES = "a signature is not for these hospitals, round and parent"
SUM, RANGE, SETS = (
    "not the one that its proof names",
    "no honest hospitals can add up to",
    "not those of the plan",
)
LIES = [
    (too_few, "too few hospitals signed"),
    (one_of_them_for_everybody, NAMES),
    (of_another_attempt, NAMES),
    (of_another_round, NAMES),
    (of_another_parent, NAMES),
    (for_other_survivors, NAMES),
    (for_other_members, NAMES),
    (of_another_transcript, NAMES),
    (forged, NAMES),
    (of_a_hospital_outside_the_sum, "not in the sum"),
    (of_nobody, "too few hospitals signed"),
    (from_a_cohort_of_two, "sums too few"),
    (from_hospitals_that_are_not_in_the_plan, SETS),
    (with_a_hospital_twice, SETS),
    (with_another_round, NAMES),
    (with_another_attempt, NAMES),
    (with_a_round_to_come, "not its turn"),
    (with_a_truncated_sum, SUM),
    (with_a_sum_of_broken_words, SUM),
    (with_a_longer_sum, SUM),
    (with_another_sum_than_its_hash, SUM),
    (with_a_sum_out_of_range, RANGE),
    (with_the_sum_of_another_attempt, "nothing leads"),
    # Even if the others had signed what no honest hospital signs:
    (lambda chain: chain.sign_anew(1, round=3), "not its turn"),
    (lambda chain: chain.sign_anew(1, survivors=(1, 2)), "sums too few"),
    (lambda chain: chain.sign_anew(1, survivors=(1, 1, 2, 3)), SETS),
    (lambda chain: chain.sign_anew(1, members=(1, 2, 3)), SETS),
    (lambda chain: chain.sign_anew(1, members=(1, 2, 3, 4, 9)), SETS),
    (lambda chain: chain.sign_anew(1, signers=(1, 2, 4), survivors=(1, 2, 3)), "not in the sum"),
    (lambda chain: chain.sign_anew(1, survivors=(1, 2, 3)), RANGE),
]


@pytest.mark.parametrize(("lie", "reason"), leading(LIES, 18))
def test_a_version_is_refused_whose_signatures_or_sum_are(
    at: At, lie: Callable[[Chain], None], reason: str
) -> None:
    chain = Chain()
    chain.grow(1)
    lie(chain)
    hospital = at(chain)  # one without keys, so that nothing but proof and arithmetic stands in the way
    assert reason in hospital.refuses("broken-lineage", 3)


def test_a_skipped_version_is_refused(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.reach(1)
    chain.grow(1)
    chain.grow(2)
    chain.sums[1] = chain.sums[2]
    assert "round and parent" in hospital.refuses("broken-lineage", 3)


def test_a_rolled_back_version_is_refused(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    for number in (1, 2):
        hospital.join(chain.grow(number))
        hospital.reach(number + 1)
    hospital.refuses("broken-lineage", 3, chain.versions[1].model)


def test_a_rolled_back_version_with_another_future_is_refused(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    for number in (1, 2):
        hospital.join(chain.grow(number))
        hospital.reach(number + 1)
    chain.sums[3] = chain.attempt(3, parent=chain.versions[1].model)
    hospital.refuses("broken-lineage", 4, b"m" * 32)


def test_a_replayed_sum_is_refused(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.grow(1))
    hospital.reach(2)
    chain.sums[2] = chain.sums[1]
    assert "not its turn" in hospital.refuses("broken-lineage", 3, b"m" * 32)


def test_a_replayed_sum_under_a_new_proof_is_refused(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    first = chain.grow(1)
    hospital.join(first)
    hospital.reach(2)
    second = chain.attempt(2, updates={i: -unit(i) for i in range(1, 5)})
    hospital.join(second)
    chain.publish(replace(second, data=first.data))
    chain.lie(2, data=first.data)
    hospital.refuses("altered-sum", 3)


def test_a_step_with_other_options_than_the_plans_is_refused(at: At) -> None:
    chain = Chain(options={"strategy": {"name": "fedavgm", "options": {"momentum": 0.9}}})
    other = Chain(options={"strategy": {"name": "fedavgm", "options": {"momentum": 0.5}}})
    hospital = at(chain)
    for number in (1, 2):
        made = chain.grow(number)
        other.publish(made)
        hospital.join(made)
        if number == 1:
            hospital.reach(2)  # without a past the momentum does nothing
    assert "nothing leads" in hospital.refuses("broken-lineage", 3, other.newest.model)


def test_a_node_whose_upload_came_too_late_knows_who_was_committed(at: At) -> None:
    chain = Chain()
    hospital = at(chain, index=4)
    hospital.join(chain.attempt(1, survivors=(1, 2, 3)))
    chain.grow(1, members=(1, 2, 3))  # the same attempt: only if hospitals sign twice
    assert "than were committed" in hospital.refuses("broken-lineage", 2)


def test_a_node_remembers_after_a_restart_what_it_agreed_to(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.attempt(1))
    hospital.restart()
    chain.grow(1, survivors=(2, 3, 4))  # only if hospitals sign twice
    assert "than this one agreed to" in hospital.refuses("broken-lineage", 2)


def test_an_attempt_that_was_given_up_makes_no_version_later(at: At) -> None:
    """Otherwise a second attempt would make members forget the key that checks the first one's sum."""
    chain = Chain()
    hospital = at(chain)
    first = chain.attempt(1)
    hospital.join(first)
    hospital.join(chain.attempt(2))
    chain.publish(replace(first, data=altered(first)))
    chain.lie(1, data=altered(first))
    assert "given up" in hospital.refuses("broken-lineage", 3)


def test_starting_again_makes_good_for_an_altered_version_without_a_restart(at: At) -> None:
    chain, honest = Chain(), Chain()
    honest.identities, honest.plan = chain.identities, chain.plan
    made = honest.grow(1, members=(1, 2, 3))
    honest.grow(2)
    chain.publish(replace(made, data=altered(made)))
    chain.lie(1, data=altered(made))
    hospital = at(chain, index=4)
    hospital.reach(2)
    chain.sums, chain.versions = honest.sums, honest.versions
    with pytest.raises(Error, match="round and parent"):
        hospital.reach(3)
    hospital.path.unlink()  # what 'medveil node lineage --start-again' does
    hospital.journal.clear_alarm(chain.plan.id)
    assert hospital.reach(3).tobytes() == honest.newest.vector.tobytes()


def test_an_initial_model_of_another_hash_is_not_taken(at: At) -> None:
    chain = Chain()
    chain.file = to_safetensors(START + np.float32(1), SPEC)
    hospital = at(chain)
    with pytest.raises(WrongModel):
        hospital.reach(1)
    assert not hospital.path.exists()


@pytest.mark.parametrize("status", [409, 500, 503])
def test_an_aggregator_in_trouble_is_no_alarm(at: At, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    hospital = at(chain)
    made = chain.grow(1)
    hospital.join(made)

    async def trouble(plan: str, version: int, **_: int) -> Any:
        raise AggregatorProblem(status=status, code="storage-failed", title="", detail="")

    for name in ("proof", "sum"):
        with monkeypatch.context() as patch:
            patch.setattr(chain, name, trouble)
            with pytest.raises(AggregatorProblem):
                hospital.reach(2)
    assert hospital.journal.alarm(chain.plan.id) is None
    chain.lie(1, data=altered(made))
    hospital.refuses("altered-sum", 2)  # the key was still there
