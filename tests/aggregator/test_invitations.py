"""The admin invites a hospital with one file; a name has one open door at most, and the log names it."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator import admin, invitations
from aggregator.access.tls import make_certificates
from aggregator.cli import app
from aggregator.invitations import invite, newcomers, take_back
from aggregator.settings import Settings, load
from aggregator.storage.register import OpenToken, TokenRefused, UnknownPerson
from aggregator.storage.transactions import AlreadyThere
from medveil.authority import certificates_in
from medveil.errors import BadFile, BadOption
from medveil.invitation import Invitation


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = Settings(tmp_path / "aggregator", names=("fl.example.org",), consortium="Films of five")
    admin.set_up_aggregator(made)
    monkeypatch.chdir(tmp_path)
    return load(made.folder)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def enrolled(settings: Settings, invitation: Invitation, key: bytes = b"k" * 32) -> None:
    with admin.opened(settings) as store:
        store.register.enrol(invitation.token, name=invitation.name, public_key=key, now=time.time())


def test_one_private_file_holds_all_that_a_hospital_needs_and_the_log_names_it(settings: Settings) -> None:
    path, made = invite(settings, "st-marys", days=2)
    assert path == Path("st-marys.invitation")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Invitation.read(path) == made
    assert (made.name, made.consortium, made.aggregator) == (
        "st-marys",
        "Films of five",
        "https://fl.example.org:8443",
    )
    assert made.authority.encode() == (settings.folder / "tls" / "ca.pem").read_bytes()
    assert 2 * 86_400 - 60 < made.expires - time.time() <= 2 * 86_400
    (entry,) = admin.newest_entries(settings, 1)
    assert (entry.action, entry.details["name"]) == ("token.added", "st-marys")
    assert made.token not in str(entry)
    enrolled(settings, made)
    assert [(one.name, one.state, one.key) for one in newcomers(settings)] == [
        ("st-marys", "enrolled", b"k" * 32)
    ]


@pytest.mark.parametrize("name", ["Ünï", "St-Marys", "", "a b", "../x", "-a", "a" * 49])
def test_a_name_that_is_none_is_refused_also_for_a_bare_token(settings: Settings, name: str) -> None:
    for make in (
        lambda: invite(settings, name, days=1),
        lambda: admin.new_token(settings, name, "hospital"),
    ):
        with pytest.raises(BadOption, match="is no name"):
            make()
    assert newcomers(settings) == []
    assert list(Path().glob("*.invitation")) == []


def test_a_second_open_invitation_needs_a_word_and_takes_the_first_one_back(settings: Settings) -> None:
    path, first = invite(settings, "st-marys", days=1)
    with pytest.raises(OpenToken):
        invite(settings, "st-marys", days=1, target=Path("other"))
    assert not Path("other").exists()
    with pytest.raises(BadOption, match="already a file"):
        invite(settings, "st-marys", days=1)
    assert Invitation.read(path) == first
    _, second = invite(settings, "st-marys", days=1, again=True)
    assert Invitation.read(path) == second != first
    with pytest.raises(TokenRefused):
        enrolled(settings, first)
    enrolled(settings, second)


def test_again_writes_over_an_invitation_of_this_name_and_over_nothing_else(settings: Settings) -> None:
    target = Path("notes")
    target.write_text("mine")
    with pytest.raises(BadOption, match="already a file"):
        invite(settings, "st-marys", days=1, target=target, again=True)
    invite(settings, "st-johns", days=1)
    with pytest.raises(BadOption, match="already a file"):
        invite(settings, "st-marys", days=1, target=Path("st-johns.invitation"), again=True)
    assert target.read_text() == "mine"
    assert [one.name for one in newcomers(settings)] == ["st-johns"]


def test_whoever_is_enrolled_or_was_revoked_is_not_invited(settings: Settings) -> None:
    _, made = invite(settings, "st-marys", days=1)
    enrolled(settings, made)
    for _ in range(2):
        for make in (
            lambda: invite(settings, "st-marys", days=1, target=Path("x"), again=True),
            lambda: admin.new_token(settings, "st-marys", "hospital"),
        ):
            with pytest.raises(AlreadyThere):
                make()
        admin.revoke(settings, "st-marys")
    assert not Path("x").exists()
    assert newcomers(settings)[0].state == "revoked"


def test_an_invitation_can_be_taken_back_and_an_expired_one_replaced(settings: Settings) -> None:
    path, made = invite(settings, "st-marys", days=1)
    take_back(settings, "st-marys")
    with pytest.raises(TokenRefused):
        enrolled(settings, made)
    with pytest.raises(UnknownPerson):
        take_back(settings, "st-marys")
    assert newcomers(settings)[0].state == "taken back"
    path.unlink()
    with admin.opened(settings) as store:
        store.register.add_token("old", name="st-marys", role="hospital", expires=1.0)
    invite(settings, "st-marys", days=1)
    assert newcomers(settings)[0].state == "open"


def test_an_address_that_no_certificate_fits_is_refused_and_a_fronts_authority_travels(
    settings: Settings, tmp_path: Path
) -> None:
    behind = replace(settings, address="https://front.example.org")
    with pytest.raises(BadFile, match=r"front\.example\.org"):
        invite(behind, "st-marys", days=1)
    make_certificates(tmp_path / "front", ("front.example.org",))
    _, made = invite(replace(behind, authority=str(tmp_path / "front" / "ca.pem")), "st-marys", days=1)
    assert made.aggregator == "https://front.example.org"
    assert made.authority.encode() == (tmp_path / "front" / "ca.pem").read_bytes()
    with pytest.raises(BadFile, match="no certificate"):
        invite(replace(behind, authority=str(settings.folder / "aggregator.json")), "st-johns", days=1)


def test_while_the_certificate_is_replaced_both_authorities_travel(settings: Settings) -> None:
    admin.next_certificate(settings.folder)
    _, made = invite(settings, "st-marys", days=1)
    assert len(certificates_in(made.authority.encode())) == 2


@pytest.mark.parametrize("days", [0, 0.01, 61, float("nan")])
def test_an_invitation_lives_an_hour_to_sixty_days(settings: Settings, days: float) -> None:
    with pytest.raises(BadOption):
        invite(settings, "st-marys", days=days)
    assert newcomers(settings) == []


def test_a_file_that_cannot_be_written_leaves_no_token(settings: Settings) -> None:
    with pytest.raises(BadFile, match="No such file"):
        invite(settings, "st-marys", days=1, target=Path("nowhere") / "x")
    assert newcomers(settings) == []


def test_the_commands_show_words_that_the_file_has_and_the_key_to_compare(settings: Settings) -> None:
    runner, at = CliRunner(), ["--folder", str(settings.folder)]
    done = runner.invoke(app, ["invite", "st-marys", *at])
    assert done.exit_code == 0, done.output
    made = Invitation.read(Path("st-marys.invitation"))
    words = " ".join(made.words[:6])
    assert words in done.output
    assert made.token not in done.output
    again = runner.invoke(app, ["invitations", "--words", "st-marys.invitation", *at])
    assert words in again.output
    assert "open, until" in runner.invoke(app, ["invitations", *at]).output
    told = json.loads(runner.invoke(app, ["invitations", "--json", *at]).output)
    assert (told["name"], told["role"], told["state"], told["key"]) == ("st-marys", "hospital", "open", "")
    assert told["until"] == float(made.expires)
    assert runner.invoke(app, ["invitations", "--take-back", "st-marys", *at]).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--address", "http://fl.example.org"],
        ["--address", "https://fl.example.org/x y"],
        ["--consortium", "a\nb"],
        ["--consortium", "x" * 81],
    ],
)
def test_an_aggregator_whose_invitations_could_not_be_used_is_not_made(
    tmp_path: Path, words: list[str]
) -> None:
    done = CliRunner().invoke(app, ["init", "--folder", str(tmp_path / "new"), *words])
    assert isinstance(done.exception, BadOption)
    assert not (tmp_path / "new").exists()


def test_an_aggregator_made_before_there_were_invitations_can_invite(settings: Settings) -> None:
    file = settings.folder / "aggregator.json"
    kept = [
        line
        for line in file.read_text().splitlines()
        if not line.strip().startswith(('"consortium"', '"address"', '"authority"'))
    ]
    file.write_text("\n".join(kept))
    assert invitations.invite(load(settings.folder), "a", days=1)[1].consortium == "fl.example.org"
