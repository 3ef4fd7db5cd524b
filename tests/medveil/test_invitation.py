"""An invitation is read as it was written, or refused by what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aggregator.access.tls import make_certificates
from medveil.errors import BadFile
from medveil.invitation import (
    Invitation,
    InvitationAltered,
    InvitationExpired,
    NotAnInvitation,
    authority_in,
)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        make_certificates(folder / name, ("fl.example.org",))
    return authority_in(folder / "one" / "ca.pem"), authority_in(folder / "two" / "ca.pem")


@pytest.fixture
def invitation(authorities: tuple[str, str]) -> Invitation:
    return Invitation(
        name="st-marys",
        consortium="Films of five hospitals, Zürich",
        aggregator="https://fl.example.org:8443",
        authority=authorities[0],
        token="ab" * 24,
        expires=1_800_000_000,
    )


@pytest.fixture
def file(tmp_path: Path, invitation: Invitation) -> Path:
    path = tmp_path / "st-marys.invitation"
    path.write_bytes(invitation.to_bytes())
    return path


def test_it_is_read_as_it_was_written_also_after_a_mail_program(file: Path, invitation: Invitation) -> None:
    assert Invitation.read(file) == invitation
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert Invitation.read(file).words == invitation.words
    assert len(invitation.words) == 12
    assert invitation.token not in repr(invitation)


def test_each_thing_it_says_changes_its_words(invitation: Invitation, authorities: tuple[str, str]) -> None:
    changes: dict[str, Any] = {
        "name": "st-johns",
        "consortium": "Films of five hospitals, Zurich",
        "aggregator": "https://fl.example.org:8444",
        "authority": authorities[1],
        "token": "ab" * 23 + "ac",
        "expires": 1_800_000_001,
    }
    assert set(changes) == set(Invitation.model_fields) - {"format"}
    others = {invitation.model_copy(update={key: value}).words for key, value in changes.items()}
    assert len(others | {invitation.words}) == len(changes) + 1


@pytest.mark.parametrize("key", ["name", "consortium", "aggregator", "authority", "token", "expires", "hash"])
@pytest.mark.parametrize("how", ["other", "gone", "wrong kind"])
def test_an_altered_one_is_refused_whatever_was_altered(file: Path, key: str, how: str) -> None:
    told = json.loads(file.read_bytes())
    if how == "gone":
        del told[key]
    elif how == "wrong kind":
        told[key] = {"a": [1]}
    else:
        told[key] = (
            told[key] + 1 if key == "expires" else told[key][:-1] + ("b" if told[key][-1] == "a" else "a")
        )
    file.write_text(json.dumps(told))
    with pytest.raises(InvitationAltered):
        Invitation.read(file)


def test_more_than_it_says_or_a_line_cut_off_is_no_invitation(file: Path) -> None:
    told = json.loads(file.read_bytes())
    file.write_text(json.dumps(told | {"policy": {"epsilon_cap": 1e9}}))
    with pytest.raises(InvitationAltered):
        Invitation.read(file)
    file.write_text(json.dumps(told)[:-40])
    with pytest.raises(NotAnInvitation):
        Invitation.read(file)


def _later(told: dict[str, Any]) -> bytes:
    return json.dumps(told | {"format": "medveil-invitation-2"}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda _: b"", "not written like one"),
        (lambda _: b"\x89PNG\r\n", "not written like one"),
        (lambda _: b"-----BEGIN CERTIFICATE-----", "not written like one"),
        (lambda _: b"[1, 2]", "another kind of file"),
        (lambda _: b'{"name": "st-marys"}', "another kind of file"),
        (_later, "another version"),
        (lambda _: b"[" * 100_000, "not written like one"),
    ],
    ids=["empty", "picture", "certificate", "list", "settings", "later", "deep"],
)
def test_another_file_is_told_apart(
    file: Path, content: Callable[[dict[str, Any]], bytes], words: str
) -> None:
    file.write_bytes(content(json.loads(file.read_bytes())))
    with pytest.raises(NotAnInvitation, match=words):
        Invitation.read(file)


def test_a_file_that_is_not_there_or_too_large_is_no_traceback(file: Path) -> None:
    with pytest.raises(BadFile, match="No such file"):
        Invitation.read(file.with_name("other"))
    file.write_bytes(bytes(2**20))
    with pytest.raises(BadFile, match="longer"):
        Invitation.read(file)


def test_it_ends_with_the_second_it_names(invitation: Invitation) -> None:
    invitation.check_time(invitation.expires - 1)
    with pytest.raises(InvitationExpired, match="2027-01-15"):
        invitation.check_time(invitation.expires)


@pytest.mark.parametrize(
    "change",
    [
        {"consortium": "a\nb"},
        {"consortium": "\x1b[2J"},
        {"consortium": ""},
        {"aggregator": "http://fl.example.org"},
        {"aggregator": "https://fl.example.org/x"},
        {"authority": "-----BEGIN CERTIFICATE-----"},
        {"name": "St Marys"},
        {"token": "short"},
    ],
    ids=str,
)
def test_what_could_not_be_shown_or_used_cannot_be_written(
    invitation: Invitation, change: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Invitation.model_validate(invitation.model_dump() | change)
