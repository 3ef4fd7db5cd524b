"""A provider vouches for people; whatever it or a browser says otherwise than it must opens nothing."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2 as httpx
import pytest
from fastapi import Depends

from aggregator import signing_in
from aggregator.access.oidc.flow import COOKIE as FLOW
from aggregator.access.oidc.flow import Flow
from aggregator.settings import Settings, load
from aggregator.storage.register import Role
from aggregator.ways_in import Provider, Rule, SignIn
from aggregator.web.dashboard.door import Viewer, viewer
from door import Door
from medveil.errors import BadFile
from medveil.outgoing import pinned
from openid import SECRET, OpenId, new_key, provider
from proxies import SmallProxy, running
from tries import leading
from visitor import Visitor
from world import Clock, World, make_world


@pytest.fixture(scope="module")
def sso(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenId]:
    with provider(tmp_path_factory.mktemp("sso")) as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make_world(tmp_path_factory.mktemp("world"))
    secret = made.folder / "sso.secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    yield made
    made.store.close()


@pytest.fixture
def door(world: World, sso: OpenId) -> Door:
    fresh = OpenId(sso.folder)
    for name in vars(fresh).keys() - {"folder", "port", "codes", "used"}:
        setattr(sso, name, getattr(fresh, name))
    return opened(world, sso)


def opened(world: World, sso: OpenId, **changes: Any) -> Door:
    settings = sso.settings | changes
    made = Door(world, sign_in=SignIn(providers=(Provider.model_validate(settings),)))

    @made.app.get("/here")
    async def here(who: Annotated[Viewer, Depends(viewer)]) -> dict[str, str]:
        return {"name": who.name, "role": who.role.value, "way": who.way, "shown": who.shown}

    return made


@pytest.fixture
def anna(door: Door) -> Visitor:
    return Visitor(door)


def goes(browser: Visitor, sso: OpenId, back: str = "/here") -> str:
    """Begin to sign in; the path and query by which the provider sends the browser back."""
    answer = browser.get(f"/signin/with/sso?back={back}")
    assert answer.status_code == 303, answer.text
    there = answer.headers["location"]
    assert there.startswith(f"{sso.issuer}/authorize?")
    sent = httpx.get(there, verify=pinned(sso.folder / "ca.pem"), trust_env=False)
    parts = urlsplit(sent.headers["location"])
    assert f"{parts.scheme}://{parts.netloc}" == browser.door.service.visitors.settings.url
    return f"{parts.path}?{parts.query}"


def signs_in(browser: Visitor, sso: OpenId) -> httpx.Response:
    return browser.get(goes(browser, sso))


def refused(browser: Visitor, answer: httpx.Response, status: int, code: str) -> None:
    """A page that says so; nobody is signed in, and nothing of the attempt is left."""
    assert (answer.status_code, f"<code>{code}</code>" in answer.text) == (status, True), answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not browser.cookie
    assert browser.get("/here").status_code == 303


def test_a_person_comes_in_with_the_role_of_the_first_rule_that_fits(
    door: Door, anna: Visitor, sso: OpenId, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = signs_in(anna, sso)
    assert (answer.status_code, answer.headers["location"]) == (303, "/here")
    assert FLOW not in anna.cookies
    assert anna.get("/here").json() == {"name": "sso/u-1", "role": "admin", "way": "sso", "shown": "Anna"}
    newest = list(door.world.store.log.entries())[-1]
    assert (newest.action, newest.actor, newest.details["kind"]) == ("session.begun", "sso/u-1", "sso")
    told = capsys.readouterr().out + "\n".join(door.world.dump()[0])
    for secret in (*sso.codes, SECRET, anna.cookie):
        assert secret not in told
    sso.person = {"sub": "u-1", "groups": "medveil-auditors", "name": "<b>Anna\u202e"}
    signs_in(anna, sso)
    assert anna.get("/here").json()["role"] == "auditor"
    assert "\u202e" not in anna.get("/here").json()["shown"]


def test_a_researcher_comes_in_under_the_enrolled_name_and_nobody_else(
    door: Door, anna: Visitor, sso: OpenId
) -> None:
    sso.person = {"sub": "u-2", "realm_access": {"roles": ["reader", "x"]}}
    refused(anna, signs_in(anna, sso), 403, "no-role-here")
    door.token("reader", Role.RESEARCHER)
    assert signs_in(anna, sso).status_code == 303
    assert anna.get("/here").json()["name"] == "reader"
    door.service.register.revoke("reader", now=time.time())
    refused_again = signs_in(Visitor(door), sso)
    assert refused_again.status_code == 403


@pytest.mark.parametrize(
    "person",
    leading(
        [
            {"sub": "u-3", "groups": ["medveil-admin"]},
            {"sub": "u-3", "groups": "medveil-admins medveil-auditors"},
            {"sub": "u-3", "email": "ben@example.org", "email_verified": "true"},
            {"sub": "u-3"},
            {"sub": "u-3", "groups": {"medveil-admins": True}},
            {"sub": "u-3", "realm_access": "reader"},
            {"sub": "u-3", "email": "ben@example.org"},
            {"sub": "u-3", "email": "ben@example.org", "email_verified": False},
        ],
        3,
    ),
)
def test_whom_no_rule_fits_does_not_come_in(anna: Visitor, sso: OpenId, person: dict[str, Any]) -> None:
    sso.person = person
    refused(anna, signs_in(anna, sso), 403, "no-role-here")


LIES: dict[str, Callable[[OpenId], dict[str, Any]]] = {
    "another issuer": lambda sso: {"alter": lambda c: c | {"iss": "https://evil.example"}},
    "another audience": lambda sso: {"alter": lambda c: c | {"aud": "somebody-else"}},
    "more than our audience": lambda sso: {"alter": lambda c: c | {"aud": ["medveil", "another"]}},
    "made for another": lambda sso: {"alter": lambda c: c | {"azp": "somebody-else"}},
    "expired": lambda sso: {"alter": lambda c: c | {"exp": int(time.time()) - 3600}},
    "no expiry": lambda sso: {"alter": lambda c: {k: v for k, v in c.items() if k != "exp"}},
    "odd expiry": lambda sso: {"alter": lambda c: c | {"exp": "tomorrow"}},
    "from the future": lambda sso: {"alter": lambda c: c | {"iat": int(time.time()) + 3600}},
    "another nonce": lambda sso: {"alter": lambda c: c | {"nonce": "another"}},
    "no nonce": lambda sso: {"alter": lambda c: {k: v for k, v in c.items() if k != "nonce"}},
    "another at_hash": lambda sso: {"alter": lambda c: c | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
    "nobody": lambda sso: {"alter": lambda c: {k: v for k, v in c.items() if k != "sub"}},
    "an odd subject": lambda sso: {"alter": lambda c: c | {"sub": ["u-1"]}},
    "no signature": lambda sso: {"header": lambda h: h | {"alg": "none"}},
    "signed with our secret": lambda sso: {"header": lambda h: h | {"alg": "HS256"}},
    "signed with its public key": lambda sso: {"header": lambda h: h | {"alg": "HS256", "pem": True}},
    "changed after signing": lambda sso: {"token": lambda t: t[:-8] + t[:-9:-1]},
    "no token at all": lambda sso: {"token": lambda t: "x"},
    "very long": lambda sso: {"token": lambda t: "x" * 100_000},
}


TELLING = (
    "another issuer",
    "another audience",
    "expired",
    "another nonce",
    "another at_hash",
    "no signature",
    "signed with its public key",
    "changed after signing",
)
"""One of each claim that is checked and of each kind of forgery; the others in `make test-all`."""


@pytest.mark.parametrize("lie", leading(sorted(LIES, key=lambda lie: lie not in TELLING), len(TELLING)))
def test_an_answer_that_proves_nothing_opens_nothing(anna: Visitor, sso: OpenId, lie: str) -> None:
    for name, value in LIES[lie](sso).items():
        setattr(sso, name, value)
    refused(anna, signs_in(anna, sso), 403, "sign-in-unproven")


@pytest.mark.parametrize("kid", ["first", "never-heard-of"])
def test_a_key_that_another_has_made_opens_nothing(anna: Visitor, sso: OpenId, kid: str) -> None:
    sso.signer, sso.algorithm = new_key(kid), "ES256"
    refused(anna, signs_in(anna, sso), 403, "sign-in-unproven")


def test_a_new_key_of_the_provider_is_fetched_when_it_is_first_used_and_not_more_often(
    door: Door, anna: Visitor, sso: OpenId
) -> None:
    line = door.app.state.hall.lines["sso"]
    line._clock = clock = Clock(time.time())
    assert signs_in(anna, sso).status_code == 303
    assert signs_in(anna, sso).status_code == 303
    sso.rotate()
    assert signs_in(Visitor(door), sso).status_code == 403  # just fetched: nobody makes us ask all the time
    assert sso.asked.count("/realm/keys") == 1
    clock.now += 31
    assert signs_in(anna, sso).status_code == 303
    assert sso.asked.count("/realm/keys") == 2
    assert sso.asked.count("/realm/.well-known/openid-configuration") == 1


def test_an_answer_counts_once_for_the_browser_that_asked_and_for_ten_minutes(
    door: Door, anna: Visitor, sso: OpenId
) -> None:
    back, thief = goes(anna, sso), Visitor(door)
    refused(thief, thief.get(back), 400, "sign-in-strayed")
    flow = anna.cookies[FLOW]
    for wrong in ("", "x", flow[:-8] + "AAAAAAA="):
        thief.cookies[FLOW] = wrong
        refused(thief, thief.get(back), 400, "sign-in-strayed")
    goes(thief, sso)  # its own, for another state
    refused(thief, thief.get(back), 400, "sign-in-strayed")
    query = parse_qs(urlsplit(back).query)
    anna.cookies[FLOW] = flow
    other = urlencode({"code": query["code"][0], "state": "x" * 43, "iss": sso.issuer})
    refused(anna, anna.get(f"/signin/back/sso?{other}"), 400, "sign-in-strayed")
    anna.cookies[FLOW] = flow
    assert anna.get(back).status_code == 303
    refused(thief, thief.get(back), 400, "sign-in-strayed")
    again = Visitor(door)
    again.cookies[FLOW] = flow  # all that the browser had: the provider gives nothing for a used code
    refused(again, again.get(back), 403, "sign-in-denied")
    late = Visitor(door)
    slow = goes(late, sso)
    door.service.visitors.clock = Clock(time.time() + 601)
    refused(late, late.get(slow), 400, "sign-in-strayed")


def test_an_answer_of_another_provider_is_none(door: Door, anna: Visitor, sso: OpenId) -> None:
    for iss in (["https://evil.example"], []):
        query = parse_qs(urlsplit(goes(anna, sso)).query) | {"iss": iss}
        answer = anna.get(f"/signin/back/sso?{urlencode(query, doseq=True)}")
        refused(anna, answer, 403, "sign-in-unproven")
    assert anna.get("/signin/with/nobody").status_code == 404
    assert anna.get("/signin/back/nobody?code=x&state=y").status_code == 404


def test_a_provider_that_says_no_or_is_odd_is_named_on_a_page(door: Door, anna: Visitor, sso: OpenId) -> None:
    query = parse_qs(urlsplit(goes(anna, sso)).query)
    told = {"error": "access_denied<script>", "state": query["state"][0], "iss": sso.issuer}
    answer = anna.get(f"/signin/back/sso?{urlencode(told)}")
    refused(anna, answer, 403, "sign-in-denied")
    assert "<script>" not in answer.text
    line = door.app.state.hall.lines["sso"]
    for odd in (
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://localhost/token"},
        {"jwks_uri": 7},
    ):
        line._metadata = None
        sso.metadata = lambda told, odd=odd: told | odd  # type: ignore[misc]
        refused(anna, anna.get("/signin/with/sso"), 403, "sign-in-unproven")


def test_a_provider_that_is_down_costs_nobody_the_other_ways_in(
    world: World, door: Door, anna: Visitor, sso: OpenId
) -> None:
    begun = goes(anna, sso)
    sso.status = 503
    refused(anna, anna.get(begun), 503, "provider-away")
    gone = opened(world, sso, issuer="https://localhost:9/realm")
    other = Visitor(gone)
    answer = other.get("/signin/with/sso")
    refused(other, answer, 503, "provider-away")
    assert "nothing listens" in answer.text
    assert gone.app.state.hall.lines["sso"]._away is not None  # and is not asked again at once
    refused(other, other.get("/signin/with/sso"), 503, "provider-away")
    stranger = Visitor(opened(world, sso, authority=""))
    answer = stranger.get("/signin/with/sso")
    refused(stranger, answer, 503, "provider-away")
    assert "certificate" in answer.text
    assert other.enter().status_code == 303
    assert other.get("/here").json()["way"] == "link"


def test_claims_may_come_from_userinfo_but_of_nobody_else(world: World, door: Door, sso: OpenId) -> None:
    made = opened(world, sso, claims_from="userinfo")
    sso.person = {"sub": "u-9"}
    sso.userinfo = {"sub": "u-8", "groups": ["medveil-admins"]}
    anna = Visitor(made)
    refused(anna, signs_in(anna, sso), 403, "sign-in-unproven")
    sso.userinfo = {"sub": "u-9", "groups": ["medveil-admins"]}
    assert signs_in(anna, sso).status_code == 303
    assert anna.get("/here").json()["name"] == "sso/u-9"


def test_nobody_is_sent_elsewhere_by_way_of_the_provider(anna: Visitor, sso: OpenId) -> None:
    answer = anna.get(goes(anna, sso, back="https://evil.example/"))
    assert answer.headers["location"] == "/"


def test_what_a_browser_carries_meanwhile_says_nothing(anna: Visitor, sso: OpenId) -> None:
    back = goes(anna, sso)
    carried = base64.urlsafe_b64decode(anna.cookies[FLOW])
    for word in (*parse_qs(urlsplit(back).query)["state"], "provider", "verifier"):
        assert word not in anna.cookies[FLOW]
        assert word.encode() not in carried
    assert "Secure; " in str(anna.get("/signin/with/sso").headers["set-cookie"]) + "; "
    assert "verifier" not in repr(Flow("sso", "/", 0.0))


def test_settings_of_a_provider_are_held_to_what_they_must_be(tmp_path: Path, sso: OpenId) -> None:
    good = sso.settings
    for wrong in (
        {"issuer": "http://idp.example"},
        {"issuer": "https://idp.example/?x=1"},
        {"name": "link"},
        {"name": "Not A Name"},
        {"scopes": ["profile"]},
        {"rules": [{"claim": "a", "value": "b", "role": "researcher"}]},
        {"rules": [{"claim": "a", "value": "b", "role": "admin", "name": "anna"}]},
        {"rules": [{"claim": "a", "value": "b", "role": "monitor"}]},
        {"client_secret": "in the settings"},
    ):
        with pytest.raises(ValueError, match=r"providers\.0"):
            SignIn.model_validate({"providers": [good | wrong]})
    with pytest.raises(ValueError, match="one name"):
        SignIn.model_validate({"providers": [good, good]})
    settings = Settings(tmp_path / "aggregator", sign_in=SignIn.model_validate({"providers": [good]}))
    settings.save()
    assert load(settings.folder) == settings
    assert SECRET not in (settings.folder / "aggregator.json").read_text()
    secret = settings.folder / "sso.secret"
    for content, mode in (("x", 0o644), ("", 0o600), ("two\nlines", 0o600), (None, 0)):
        secret.unlink(missing_ok=True)
        if content is not None:
            secret.write_text(content)
            secret.chmod(mode)
        with pytest.raises(BadFile):
            settings.sign_in.providers[0].secret(settings.folder)


def test_a_rule_looks_for_a_whole_value() -> None:
    rule = Rule(claim="a.b", value="x", role="admin")
    assert rule.fits({"a": {"b": ["y", "x"]}})
    assert rule.fits({"a.b": "x"})
    assert not any(
        rule.fits(c) for c in ({}, {"a": "x"}, {"a": {"b": "xx"}}, {"a": {"b": [["x"]]}}, {"a": []})
    )
    assert Rule(claim="email", value="x", role="admin").fits({"email": "x", "email_verified": True})


def test_the_command_asks_every_provider_of_the_settings(world: World, sso: OpenId, door: Door) -> None:
    wrong = sso.settings | {"name": "gone", "issuer": "https://localhost:9/realm"}
    settings = Settings(world.folder, sign_in=SignIn.model_validate({"providers": [sso.settings, wrong]}))
    fine, away = signing_in.look_at_providers(settings)
    assert fine.problem is None
    assert fine.redirect == "https://localhost:8443/signin/back/sso"
    assert away.problem is not None
    assert away.problem.code == "provider-away"


def test_a_change_of_the_rules_counts_from_the_next_sign_in_without_a_restart(
    world: World, sso: OpenId
) -> None:
    settings = Settings(world.folder, sign_in=SignIn(providers=(Provider.model_validate(sso.settings),)))
    settings.save()
    door = opened(world, sso)
    sso.person = {"sub": "u-9", "groups": ["radiology"]}
    ben = Visitor(door)
    refused(ben, signs_in(ben, sso), 403, "no-role-here")
    rule = {"claim": "groups", "value": "radiology", "role": "auditor"}
    changed = Provider.model_validate(sso.settings | {"rules": [rule]})
    Settings(world.folder, sign_in=SignIn(providers=(changed,))).save()
    signs_in(ben, sso)
    assert ben.get("/here").json()["role"] == "auditor"
    file = world.folder / "aggregator.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])  # an editor has saved half of it: what was read last holds
    another = Visitor(door)
    assert signs_in(another, sso).status_code == 303
    assert another.get("/here").json()["role"] == "auditor"
    Settings(world.folder).save()  # no service any more: nobody new comes in by one
    late = Visitor(door)
    refused(late, signs_in(late, sso), 403, "no-role-here")
    file.unlink()


def test_signing_out_offers_the_services_own_page_for_it_where_it_names_one(
    world: World, sso: OpenId
) -> None:
    door = opened(world, sso)
    for end, offered in ((f"{sso.issuer}/end?realm=a", True), ("http://localhost/end", False), (None, False)):
        sso.metadata = lambda told, end=end: told | {"end_session_endpoint": end}
        door.app.state.hall.lines["sso"]._metadata = None
        page = Visitor(door).get("/signin/out?way=sso").text
        assert ('href="/signin/leave/sso"' in page) == offered
        left = Visitor(door).get("/signin/leave/sso")
        assert left.status_code == (303 if offered else 404)
        if offered:
            there = urlsplit(left.headers["location"])
            assert f"{there.scheme}://{there.netloc}{there.path}" == f"{sso.issuer}/end"
            url = door.service.visitors.settings.url
            asked = {
                "realm": ["a"],
                "client_id": ["medveil"],
                "post_logout_redirect_uri": [f"{url}/signin/out"],
            }
            assert parse_qs(there.query) == asked
    for way in ("nobody", "", "<b>"):
        assert "/signin/leave" not in Visitor(door).get(f"/signin/out?way={way}").text
    sso.metadata = lambda told: told


def test_a_service_is_reached_through_a_proxy_and_one_that_refuses_is_named_without_its_password(
    world: World, sso: OpenId
) -> None:
    sso.person = {"sub": "u-1", "groups": ["medveil-admins"]}
    with running(SmallProxy("http", password="medveil:safe")) as between:
        anna = Visitor(opened(world, sso, proxy=between.with_password))
        assert signs_in(anna, sso).status_code == 303
        assert anna.get("/here").json()["way"] == "sso"
        assert set(between.asked) == {f"localhost:{sso.port}"}
        assert len(between.asked) >= 3  # what it says of itself, its keys, the token
        between.refuses = "403 Forbidden"
        other = Visitor(opened(world, sso, proxy=between.with_password))
        answer = other.get("/signin/with/sso")
        assert answer.status_code == 503
        assert "provider-away" in answer.text
        assert "safe" not in answer.text
