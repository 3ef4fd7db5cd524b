"""People sign in with a real browser at a real server, by a real provider, by password and by link."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator import signing_in
from aggregator.access.breakglass import code_at
from aggregator.admin import add_person, set_up_aggregator
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.ways_in import SignIn
from browser import barriers, browser, too_wide
from medveil_research.ports import free_port
from openid_npm import SECRET, NpmProvider, npm_provider
from served import Served

pytestmark = [pytest.mark.slow]
PASSWORD = "correct horse battery staple"
ROLES = {"anna": ["medveil-admin"], "ben": ["medveil-reader"], "mallory": []}
SHOTS = os.environ.get("MEDVEIL_SCREENSHOTS", "")


@dataclass
class Place:
    """An aggregator that people reach, and a provider that vouches for them."""

    settings: Settings
    provider: NpmProvider
    key: bytes
    chromium: Any

    def open(self, *, width: int = 1280, language: str = "en", scheme: str = "light") -> Any:
        """A browser of somebody's own, on this machine's certificates."""
        context = self.chromium.new_context(
            ignore_https_errors=True,
            locale=language,
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
        )
        page = context.new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        return page


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("place"), free_port()
    redirect = f"https://localhost:{port}/signin/back/npm"
    with npm_provider(folder / "npm", redirect, ROLES) as provider, browser() as chromium:
        sign_in = SignIn.model_validate({"providers": [provider.settings]})
        settings = Settings(
            folder / "aggregator", port=port, consortium="Films of five hospitals", sign_in=sign_in
        )
        set_up_aggregator(settings)
        secret = settings.folder / "npm.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        add_person(settings, "reader", Role.RESEARCHER, days=1)
        admin = signing_in.new_admin(settings, "safe", PASSWORD)
        signing_in.keep_admin(settings, admin)
        server = Served(
            settings.folder, settings.limits, port=port, consortium=settings.consortium, sign_in=sign_in
        )
        yield Place(settings, provider, admin.key, chromium)
        server.stop()


def at_the_provider(page: Any, name: str) -> None:
    """What a person does there: name, any password, and yes."""
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "whatever")
    page.click("button[type=submit]")
    page.click("button[type=submit]")  # what it will tell us


def signed_in(page: Any, name: str, place: Place) -> None:
    page.goto(f"{place.settings.url}/")
    page.click("text=Sign in with Hospital account")
    at_the_provider(page, name)


def who(page: Any, place: Place) -> list[tuple[str, str, str]]:
    return [(one.name, one.role, one.way) for one in signing_in.open_sessions(place.settings)]


def test_people_come_in_by_the_provider_with_their_roles_and_go_again(place: Place) -> None:
    page = place.open()
    page.goto(f"{place.settings.url}/hospitals")
    assert page.url == f"{place.settings.url}/signin?back=%2Fhospitals"
    page.click("text=Sign in with Hospital account")
    assert page.url.startswith(place.provider.issuer)
    at_the_provider(page, "anna")
    page.wait_for_url(f"{place.settings.url}/hospitals")
    assert who(page, place) == [("npm/anna", "admin", "npm")]
    cookies = {one["name"]: one for one in page.context.cookies()}
    assert {"__Host-medveil"} <= set(cookies)
    assert "__Host-medveil-flow" not in cookies
    kept = cookies["__Host-medveil"]
    assert (kept["secure"], kept["httpOnly"], kept["sameSite"], kept["path"]) == (True, True, "Lax", "/")
    assert signing_in.end_sessions(place.settings, "npm/anna") == 1
    page.goto(f"{place.settings.url}/hospitals")
    assert "/signin" in page.url
    page.click("text=Sign in with Hospital account")  # the provider remembers the person
    page.wait_for_url(f"{place.settings.url}/hospitals")
    page.context.close()


def test_a_researcher_has_the_enrolled_name_and_a_stranger_none(place: Place) -> None:
    ben, mallory = place.open(), place.open()
    signed_in(ben, "ben", place)
    ben.wait_for_url(f"{place.settings.url}/**")
    assert ("reader", "researcher", "npm") in who(ben, place)
    signed_in(mallory, "mallory", place)
    assert "no-role-here" in mallory.content()
    assert barriers(mallory) == []
    shot(mallory, "refused")
    for page in (ben, mallory):
        page.context.close()


def test_the_break_glass_account_opens_when_the_provider_is_down(place: Place) -> None:
    page = place.open()
    place.provider.stop()
    page.goto(f"{place.settings.url}/signin")
    page.click("text=Sign in by it")
    page.fill("input[name=name]", "safe")
    page.fill("input[name=password]", "not this one")
    page.fill("input[name=code]", "000000")
    page.click("button.main")
    assert "wrong-password" in page.content()
    assert too_wide(page) == []
    shot(page, "wrong")
    page.fill("input[name=name]", "safe")
    page.fill("input[name=password]", PASSWORD)
    page.fill("input[name=code]", code_at(place.key, int(time.time() // 30)))
    page.click("button.main")
    assert ("safe", "admin", "break-glass") in who(page, place)
    assert "/signin" not in page.url
    page.context.close()


def test_the_link_of_the_machine_opens_once(place: Place) -> None:
    link, page, other = signing_in.new_link(place.settings), place.open(), place.open()
    page.goto(link.address)
    assert ("admin", "admin", "link") in who(page, place)
    other.goto(link.address)
    assert "used-up" in other.content()
    for one in (page, other):
        one.context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("path", ["signin", "signin/local", "signin/out", "signin/link/nothing"])
def test_every_page_of_the_way_in_fits_and_has_no_barrier(
    place: Place, path: str, language: str, width: int
) -> None:
    page = place.open(width=width, language=language)
    page.goto(f"{place.settings.url}/{path}")
    assert too_wide(page) == []
    assert barriers(page) == []
    assert [line for line in page.heard if "Content Security Policy" in line] == []
    shot(page, f"{path.replace('/', '-')}-{language}-{width}")
    page.emulate_media(color_scheme="dark")
    assert barriers(page) == []
    page.context.close()


def shot(page: Any, name: str) -> None:
    """A picture for people who look at it, where they say so."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)
