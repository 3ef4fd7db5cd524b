"""What an operator decides at the page is what the commands would do: signed, refused, paused, left."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from amended import next_plan
from folders import lines_of
from hospital_node import consent, operator
from hospital_node.journal import Journal
from hospital_node.page.asking import Asking
from hospital_node.settings import Node
from hospitals import PEOPLE, Hospital, make_hospital, plan_of
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.messages import PlanOffer
from medveil.plan import Plan
from medveil.spoken import spoken
from node_page import Browser, recorded, served

ADMIN = Identity.generate("admin")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return make_hospital(tmp_path)


def offer(monkeypatch: pytest.MonkeyPatch, *plans: Plan) -> None:
    """What the aggregator offers."""

    async def offers(_: Node) -> tuple[tuple[object, ...], bytes | None]:
        signed = [
            PlanOffer(
                plan=one.model_dump_json(),
                admin_key=ADMIN.public_key,
                admin_signature=ADMIN.sign("create-plan", one.hash),
                approvals={},
            )
            for one in plans
        ]
        return tuple(signed), None

    monkeypatch.setattr(operator, "offers", offers)


def signed_here(hospital: Hospital) -> list[str]:
    journal = Journal(hospital.node.journal)
    try:
        return [plan.id for plan, _ in journal.approved()]
    finally:
        journal.close()


def test_a_plan_is_signed_by_its_own_twelve_words_and_freezes_whom_the_page_has_shown(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, other = plan_of(), plan_of(name="another")
    offer(monkeypatch, plan, other)
    with served(hospital.node) as page:
        page.page.asking.look()
        browser = Browser(page).enter()
        action = f"/requests/{plan.id}/approve"
        form = {"seal": browser.seal(action), "agreed": "yes", "words": spoken(other.hash)}
        browser.send("POST", action, form)
        assert "page-other-words" in browser.send("GET", "/").text
        browser.send("POST", action, form | {"words": spoken(plan.hash), "agreed": ""})
        assert signed_here(hospital) == []
        hospital.write(lines_of()[1:])
        browser.send("POST", action, form | {"words": spoken(plan.hash)})
        assert "page-shown-otherwise" in browser.send("GET", "/").text
        assert signed_here(hospital) == []
        page.page.asking.look()
        browser.send("POST", action, form | {"words": spoken(plan.hash).upper()})
        assert signed_here(hospital) == [plan.id]
        told = browser.send("GET", "/").text
        assert f'action="{action}"' not in told
        codes = [code for route, code in recorded(page) if route == "/requests"]
        assert codes == ["page-other-words", "page-bad-form", "page-shown-otherwise", ""]


def test_the_operators_word_at_the_page_is_the_word_of_the_commands(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, other = plan_of(), plan_of(name="another")
    hospital.approve(plan)
    offer(monkeypatch, plan, other)
    monkeypatch.setattr(consent, "tell_aggregator", lambda _: True)
    with served(hospital.node) as page:
        page.page.asking.look()
        browser, session = Browser(page).enter(), next(iter(page.page.door._sessions.values()))

        def does(path: str, **form: str) -> str:
            """Send a form as the page makes it; what the page says then."""
            assert browser.send("POST", path, form | {"seal": session.seal(path)}).status == 303
            return browser.send("GET", "/").text

        assert "Paused" in does("/pause")
        assert [one.kind for one in consent.consent(hospital.node).holds] == ["pause"]
        assert 'action="/pause"' in does("/resume")
        assert consent.consent(hospital.node).holds == ()
        assert "nothing-runs" in does("/stop", sure="yes")
        refused = f"/requests/{other.id}/refuse"
        assert "bad-reason" in does(refused, reason=" ")
        assert "we have no <films>" not in does(refused, reason="we have no <films>")
        assert "bad-reason" in does("/leave", plan=plan.id, reason="", when="now")
        assert "no-such-plan" in does("/leave", plan="0" * 64, reason="moving", when="now")
        does("/leave", plan=plan.id, reason="moving", when="round")  # no round is in hand: at once
        words = consent.consent(hospital.node).words
        assert {p: (word.kind, word.reason) for p, word in words.items()} == {
            other.id: ("refused", "we have no <films>"),
            plan.id: ("withdrawn", "moving"),
        }
        assert browser.send("POST", "/stop", {"seal": session.seal("/stop")}).status == 400
        said = [(route, code) for route, code in recorded(page) if route in ("/leave", "/requests", "/stop")]
        assert said == [
            ("/stop", "nothing-runs"),
            ("/requests", "bad-reason"),
            ("/requests", ""),
            ("/leave", "bad-reason"),
            ("/leave", "no-such-plan"),
            ("/leave", ""),
            ("/stop", "page-bad-form"),
        ]


def test_the_page_of_a_new_node_says_what_is_missing_and_reads_a_file_again_only_when_it_changes(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch)
    with served(hospital.node) as page:
        browser = Browser(page).enter()
        html = browser.send("GET", "/").text
        assert "Not running" in html
        assert "medveil node run" in html
        reads: list[int] = []
        real = page.page.reader._read_ledger
        page.page.reader._ledger._make = lambda: (reads.append(1), real())[1]
        hospital.approve(plan_of())
        for _ in range(5):
            page.page.reader.panels()
        assert len(reads) == 1


def test_a_card_says_what_has_changed_since_the_plan_of_its_name_that_was_approved_last(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan_of()
    hospital.approve(first)
    longer = plan_of(training={"rounds": 5, "local_steps": 1, "learning_rate": 1.0})
    offer(monkeypatch, first, longer, plan_of(name="of-another-name"))
    asking = Asking(hospital.node)
    asking.look()
    cards = {one.plan: one for one in asking.shown.cards}
    changed = {one.item: (one.before, one.now) for one in cards[longer.id].differences}
    assert changed["rounds"] == ("2", "5")
    assert cards[first.id].since == ""
    assert [one.since for one in cards.values() if one.study == "of-another-name"] == [""]


def test_a_change_of_the_roster_is_shown_first_and_the_plan_that_was_approved_is_folded(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stays decides about the difference; who joins reads the whole plan as well."""
    first, joins = plan_of(), Identity.generate("joins")
    second = next_plan(first, [*PEOPLE[:3], joins], first_round=2)
    offer(monkeypatch, second)
    with served(hospital.node) as page:
        browser = Browser(page).enter()
        for stays in (False, True):
            if stays:
                hospital.approve(first)
            asking = page.page.asking
            asking.look(again=True)
            (card,) = asking.shown.cards
            assert card.roster is not None
            assert [name for name, _ in card.roster.joins] == ["joins"]
            assert card.roster.joins[0][1] == fingerprint(joins.public_key)
            assert [name for name, _ in card.roster.leaves] == [PEOPLE[3].name]
            assert (card.roster.stay, card.roster.hospitals, card.roster.stays) == (3, 4, stays)
            text = html.unescape(browser.send("GET", "/").text)
            section = text[text.index(f'id="plan-{second.id[:12]}"') :]
            places = [
                section.index(word) for word in ("joins", "the same keys", "ε", "want to train one model")
            ]
            assert places == sorted(places)
            assert ("as you approved it" in section) == stays
            assert ("asks this hospital to join" in section) == (not stays)
