"""A hospital comes in by the two documented commands, over HTTPS and through its proxy, or is told why."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from aggregator import admin
from aggregator.cli import app as aggregator_app
from aggregator.settings import Limits, Settings
from folders import write_folder
from hospital_node import doctor
from hospital_node.cli import app as node_app
from hospital_node.connecting import Look
from hospital_node.joining import AlreadyJoined, InvitationUsed, NotFinished, OtherInvitation
from hospital_node.line import Unreachable
from hospital_node.settings import Node
from hospital_node.transport import Transport
from medveil.errors import Error
from medveil.invitation import Invitation, InvitationAltered, InvitationExpired, NotAnInvitation
from medveil.shown import NotConfirmed
from proxies import SmallProxy, running
from served import ROOT, served
from tries import leading


@dataclass
class Consortium:
    """An aggregator that hospitals reach through a proxy only, and that wants TLS certificates of them."""

    folder: Path
    proxy: SmallProxy

    def does(self, *words: str | Path) -> Result:
        return CliRunner().invoke(aggregator_app, [*map(str, words), "--folder", str(self.folder)])

    def invitation(self, name: str) -> Path:
        done = self.does("invite", name)
        assert done.exit_code == 0, done.output
        return Path(f"{name}.invitation")

    def key_of(self, name: str) -> str:
        shown = self.does("invitations", "--json").output
        return next((line for line in shown.splitlines() if f'"{name}"' in line), "")


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    folder = tmp_path_factory.mktemp("consortium") / "aggregator"
    names, title = ("fl.example.org",), "Films of five hospitals"
    admin.set_up_aggregator(Settings(folder, names=names))
    with (
        served(folder, Limits(), names=names, consortium=title, client_certificates=True),
        running(SmallProxy("socks5")) as proxy,
    ):
        yield Consortium(folder, proxy)


@pytest.fixture(autouse=True)
def _hospital(consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder where commands are typed, and the hospital's proxy in the environment."""
    before = os.umask(0o077)
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", consortium.proxy.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    yield
    os.umask(before)


def types(*words: str | Path) -> Result:
    return CliRunner().invoke(node_app, [str(word) for word in words])


def join(file: str | Path, *words: str) -> Result:
    return types("join", file, "--data", "films", "--yes", *words)


def nothing_was_made() -> None:
    assert sorted(os.listdir()) == sorted(["films", *map(str, Path().glob("*.invitation"))])


def documented(page: str, command: str) -> list[str]:
    """The first command of this kind in a page, as it is typed; the page's folder of images is ours."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"medveil {command} "))
    return shlex.split(line.replace("/data/chest-films", "films"))[2:]


def test_the_two_documented_commands_and_a_call_bring_a_hospital_in(consortium: Consortium) -> None:
    """With the certificate that this aggregator asks for, and so that the doctor has nothing to say."""
    invited = consortium.does(*documented("admin.md", "aggregator invite"))
    assert "medveil node join st-marys.invitation --data FOLDER" in invited.output
    joined = types(*documented("operator.md", "node join"), "--yes")
    assert joined.exit_code == 0, joined.output
    words = Invitation.read(Path("st-marys.invitation")).words
    for line in (" ".join(words[:6]), " ".join(words[6:])):
        assert line in invited.output
        assert line in joined.output
    assert "Films of five hospitals" in joined.output
    assert f"through the proxy '{consortium.proxy.url}'" in joined.output
    key = re.search(r"(?:[0-9A-F]{4}-){7}[0-9A-F]{4}", joined.output)
    assert key is not None
    assert key[0] in consortium.key_of("st-marys")
    node = Node.load(Path("node-data"))
    assert node.settings.policy.epsilon_cap == 10
    assert (node.folder / "client.pem").exists()
    assert not (node.folder / "joining.json").exists()
    write_folder(Path("films"))
    looked = types("doctor")
    assert looked.exit_code == 0, looked.output
    assert "known to the aggregator" in looked.output
    assert "20 lines" in looked.output
    again = join("st-marys.invitation")
    assert isinstance(again.exception, AlreadyJoined)


def test_without_a_yes_at_a_terminal_nothing_is_made(consortium: Consortium) -> None:
    done = types("join", consortium.invitation("unsure"), "--data", "films")
    assert isinstance(done.exception, NotConfirmed)
    nothing_was_made()
    assert "open" in consortium.key_of("unsure")


def test_all_that_is_wrong_is_told_at_once_and_the_invitation_can_be_used_again(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = consortium.invitation("hasty")
    with running(SmallProxy("http", "anna:secret")) as strict:
        monkeypatch.setenv("HTTPS_PROXY", strict.url)
        done = types("join", file, "--data", "nowhere", "--yes")
    assert done.exit_code == 1
    assert "there is no folder 'nowhere'" in done.output.replace(str(Path.cwd()) + "/", "")
    assert f"the proxy '{strict.url}' asks for a password" in done.output
    assert "USER:PASSWORD" in done.output
    nothing_was_made()
    assert join(file, "--proxy", consortium.proxy.url).exit_code == 0
    assert Node.load(Path("node-data")).settings.proxy == consortium.proxy.url


def altered(file: Path, **changes: object) -> None:
    told = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(told))


def rewritten(file: Path, **changes: object) -> None:
    """As somebody writes it who knows how: with a hash that fits."""
    file.write_bytes(Invitation.read(file).model_copy(update=changes).to_bytes())


SPOILED: dict[str, tuple[Any, type[Error]]] = {
    "altered": (lambda file: altered(file, aggregator="https://elsewhere.example"), InvitationAltered),
    "expired": (lambda file: rewritten(file, expires=int(time.time()) - 1), InvitationExpired),
    "made up": (lambda file: rewritten(file, token="ab" * 24), InvitationUsed),
    "for another name": (lambda file: rewritten(file, name="another"), InvitationUsed),
    "another file": (lambda file: file.write_text("ca.pem"), NotAnInvitation),
}


@pytest.mark.parametrize("name", leading(SPOILED, 2))
def test_an_invitation_that_is_not_good_is_refused_by_name_and_nothing_stays(
    consortium: Consortium, name: str
) -> None:
    spoil, refusal = SPOILED[name]
    name = f"bad-{name.replace(' ', '-')}"
    file = consortium.invitation(name)
    spoil(file)
    done = join(file)
    assert isinstance(done.exception, refusal), done.output
    nothing_was_made()
    assert "open" in consortium.key_of(name)


@pytest.mark.slow
def test_a_used_invitation_makes_nobody_and_leaves_what_was_there(consortium: Consortium) -> None:
    file = consortium.invitation("twice")
    assert join(file, "--folder", "first").exit_code == 0
    Path("second").mkdir(mode=0o700)
    (Path("second") / "patients.key").write_bytes(bytes(32))
    done = join(file, "--folder", "second")
    assert isinstance(done.exception, InvitationUsed)
    assert os.listdir("second") == ["patients.key"]


def test_a_line_that_breaks_while_it_enrols_is_gone_on_with_by_the_same_command(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The aggregator has enrolled the key, and its answer was lost: no other key would be taken."""
    file, other, real = consortium.invitation("unlucky"), consortium.invitation("other"), Transport.enrol

    async def lost(self: Transport, token: str) -> None:
        await real(self, token)
        raise Unreachable(reason="the connection was cut")

    monkeypatch.setattr(Transport, "enrol", lost)
    done = join(file)
    assert isinstance(done.exception, NotFinished)
    assert "same command again" in done.exception.remedy
    assert "enrolled" in consortium.key_of("unlucky")
    assert "no node" in str(types("run").exception)
    monkeypatch.setattr(Transport, "enrol", real)
    assert isinstance(join(other).exception, OtherInvitation)
    again = types("join", file, "--data", "films")  # the words were compared before
    assert again.exit_code == 0, again.output
    assert Node.load(Path("node-data")).settings.name == "unlucky"


def test_the_doctor_of_an_empty_folder_says_how_to_join() -> None:
    done = types("doctor", "--folder", "nowhere")
    assert done.exit_code == 4
    assert "medveil node join" in done.output
    assert not Path("nowhere").exists()


@pytest.fixture
def node(consortium: Consortium) -> Node:
    """A node that is well."""
    name = f"hospital-{time.time_ns()}"
    assert join(consortium.invitation(name)).exit_code == 0
    write_folder(Path("films"))
    return Node.load(Path("node-data"))


def test_the_doctor_names_each_broken_thing_with_its_fix_and_never_ends_early(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other on one node; the other lines stay as they were."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for path, content, line in (
        (node.key, b"short", "node .*holds no key"),
        (node.authority, b"env.sh", "authority .*"),
        (node.folder / "client.pem", b"", "certificate .*"),
        (node.journal, b"no database" * 500, "memory .*"),
        (node.folder / "node.json", b"{}", "node .*node.json cannot be used"),
    ):
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        done = types("doctor")
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit)
        assert re.search(f"problem {line}", done.output), done.output
        if kept is None:
            path.unlink()
        else:
            path.write_bytes(kept)
    Path("films").rename("gone")
    done = types("doctor")
    assert "there is no folder" in done.output
    assert "the proxy 'http://127.0.0.1:9' cannot be reached" in done.output
    assert "problem enrolment" not in done.output  # nothing can be said of it


@pytest.mark.parametrize(
    ("ahead_s", "passed", "words"),
    [
        (None, True, "tells no time"),
        (1.0, True, "in step"),
        (-30.0, True, "30 s ahead of"),
        (400.0, False, "400 s behind"),
        (-86_400.0, False, "86400 s ahead of"),
    ],
)
def test_the_clock_is_held_against_the_aggregators(ahead_s: float | None, passed: bool, words: str) -> None:
    found = doctor.clock_finding(Look(ahead_s, 0.0))
    assert (found.passed, words in found.found) == (passed, True)


@pytest.mark.slow
def test_a_revoked_node_is_told_so_by_its_doctor(consortium: Consortium, node: Node) -> None:
    assert consortium.does("revoke", node.settings.name).exit_code == 0
    done = types("doctor")
    assert done.exit_code == 1
    assert "[revoked]" in done.output
