"""The record reaches a hospital's audit archive as DICOM audit messages, by a real rsyslog with TLS."""

from __future__ import annotations

import asyncio
import base64
import re
import syslog as rsyslog
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hospital_node.page.events import Events
from hospital_node.settings import AuditSyslog, Node, NodeSettings
from hospital_node.transmissions.archive import CURSOR, AuditArchive, PageArchive, Tail
from hospital_node.transmissions.audit_messages import AuditSource, framed, is_audited, message
from hospital_node.transmissions.entries import Entry
from hospital_node.transmissions.page_users import page_users
from hospital_node.transmissions.person import local_user
from hospital_node.transmissions.record import SentRecord
from hospital_node.transmissions.requests import MASKED
from medveil import syslog as module
from medveil.identity import Identity
from waiting import until

ME, PLAN = Identity.generate("st-marys"), "ab" * 32
SOURCE = AuditSource("st-marys", "Ward 7 <X-ray>", "node-1", 77)
CODE = {"csd-code", "codeSystemName", "originalText"}
CHILDREN = {
    "AuditMessage": "(EventIdentification )(ActiveParticipant )+(AuditSourceIdentification )"
    "(ParticipantObjectIdentification )*",
    "EventIdentification": "(EventID )(EventTypeCode )*(EventOutcomeDescription )?",
    "ActiveParticipant": "(RoleIDCode )*(MediaIdentifier )?",
    "MediaIdentifier": "(MediaType )",
    "AuditSourceIdentification": "(AuditSourceTypeCode )*",
    "ParticipantObjectIdentification": "(ParticipantObjectIDTypeCode )"
    "((ParticipantObjectName )|(ParticipantObjectQuery ))(ParticipantObjectDetail )*",
}
"""Order and number of elements within elements (PS3.15 A.5.1); all others are empty."""
ATTRIBUTES: dict[str, tuple[set[str], set[str]]] = {
    "AuditMessage": (set(), set()),
    "EventIdentification": ({"EventDateTime", "EventOutcomeIndicator"}, {"EventActionCode"}),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
    ),
    "MediaIdentifier": (set(), set()),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}),
    "AuditSourceTypeCode": ({"csd-code"}, {"codeSystemName", "originalText"}),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole", "ParticipantObjectDataLifeCycle"},
    ),
    "ParticipantObjectName": (set(), set()),
    "ParticipantObjectDetail": ({"type", "value"}, set()),
    **dict.fromkeys(
        ("EventID", "EventTypeCode", "RoleIDCode", "MediaType", "ParticipantObjectIDTypeCode"), (CODE, set())
    ),
}
"""Attributes that an element must have, and those that it may have."""
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": r"1?\d|2[0-6]",
    "UserID": ".+",
}


def check_structure(element: ET.Element) -> None:
    """Hold an audit message against the schema of PS3.15 A.5.1."""
    children = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(CHILDREN.get(element.tag, ""), children), (element.tag, children)
    must, may = ATTRIBUTES[element.tag]
    assert must <= set(element.attrib) <= must | may, element.tag
    for name, value in element.attrib.items():
        assert re.fullmatch(VALUES.get(name, ".*"), value, re.DOTALL), (name, value)
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    for child in element:
        check_structure(child)


def record_in(folder: Path, **changes: int) -> SentRecord:
    there = {"to": "https://fl.example.org:8443", "authority": folder / "ca.pem"}
    return SentRecord(folder, ME, **there, **changes)  # type: ignore[arg-type]


def entries(folder: Path, after: int = 0, most: int = 999) -> list[Entry]:
    with closing(Tail(folder, after)) as tail:
        return list(tail.entries(most))


def send(record: SentRecord, number: int = 1) -> None:
    """Keys, and one masked segment."""
    place = f"/v1/plans/{PLAN}/rounds/1/attempts/{number}"
    for method, target in (("POST", f"{place}/advertise"), ("PUT", f"{place}/segments/0")):
        with record.leaving(method, target, b"x", None) as leaving:
            leaving.tries += 1


def codes(root: ET.Element, path: str) -> list[str]:
    return [found.attrib["csd-code"] for found in root.iterfind(path)]


@pytest.mark.parametrize(
    ("kind", "told", "event", "types"),
    [
        ("started", {"approved_by": "alice"}, "110100", ["110120"]),
        ("stopped", {"approved_by": "alice"}, "110100", ["110121"]),
        ("alert", {"event": "lineage.refused", "code": "altered-sum"}, "110113", ["lineage.refused"]),
        ("person", {"event": "logout", "approved_by": "bob"}, "110114", ["110123"]),
        ("begun-anew", {"approved_by": "alice"}, "110113", ["begun-anew"]),
    ],
)
def test_each_kind_is_a_message_of_the_dicom_schema(
    tmp_path: Path, kind: str, told: dict[str, str], event: str, types: list[str]
) -> None:
    record = record_in(tmp_path)
    record.note(kind, dict(told))
    (entry,) = entries(tmp_path)
    root = ET.fromstring(message(entry, SOURCE))
    check_structure(root)
    assert codes(root, "EventIdentification/EventID") == [event]
    assert codes(root, "EventIdentification/EventTypeCode") == types
    assert root.find("AuditSourceIdentification").attrib["AuditEnterpriseSiteID"] == "Ward 7 <X-ray>"  # type: ignore[union-attr]


def test_a_masked_segment_is_an_export_that_names_where_it_went_and_its_entry(tmp_path: Path) -> None:
    send(record_in(tmp_path))
    (entry,) = (e for e in entries(tmp_path) if e.kind == MASKED)
    root = ET.fromstring(message(entry, SOURCE))
    check_structure(root)
    assert codes(root, "EventIdentification/EventID") == ["110106"]
    assert codes(root, "ActiveParticipant/RoleIDCode") == ["110153", "110153", "110154"]
    told = {
        one.attrib["type"]: base64.b64decode(one.attrib["value"]).decode()
        for one in root.iterfind("ParticipantObjectIdentification/ParticipantObjectDetail")
    }
    assert (told["entry"], told["hash"], told["plan"]) == ("3", entry.hash.hex(), PLAN)
    line = framed(entry, SOURCE)
    length, _, rest = line.partition(b" ")
    assert int(length) == len(rest)
    assert re.match(rb"<85>1 \S+Z node-1 medveil-node 77 DICOM\+RFC3881 - \xef\xbb\xbf<\?xml ", rest)


def test_entries_are_read_in_order_while_files_are_put_aside(tmp_path: Path) -> None:
    record, tail, seen = record_in(tmp_path, most_bytes=3000), Tail(tmp_path, 0), []
    assert list(tail.entries(9)) == []
    for number in range(8):
        send(record, number + 1)
        seen += [entry.number for entry in tail.entries(3)]
    seen += [entry.number for entry in tail.entries(100)]
    assert seen == list(range(1, 33))
    assert [entry.number for entry in entries(tmp_path, 17, 2)] == [18, 19]
    tail.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.2)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[rsyslog.Archive]:
    with rsyslog.archive(tmp_path / "archive") as made:
        yield made


def node_for(tmp_path: Path, archive: rsyslog.Archive) -> Node:
    folder = tmp_path / "node"
    folder.mkdir()
    target = AuditSyslog(address=f"127.0.0.1:{archive.port}", authority=archive.here / "ca.pem")
    settings = NodeSettings(
        name="st-marys", aggregator="https://fl:1", data=tmp_path, dataset="d", audit_syslog=target
    )
    return Node(folder, settings)


@pytest.mark.slow
@rsyslog.needs_rsyslog
def test_rsyslog_takes_every_message_also_those_of_the_time_when_it_was_away(
    tmp_path: Path, archive: rsyslog.Archive, quick: None
) -> None:
    node = node_for(tmp_path, archive)
    record = record_in(node.folder)

    async def play() -> None:
        sending = AuditArchive(node, node.settings.audit_syslog)  # type: ignore[arg-type]
        running = asyncio.ensure_future(sending.run())
        record.note("started", {"approved_by": "alice"})
        send(record, 1)
        await until(lambda: len(archive.lines()) == 2)
        await until(lambda: (node.folder / CURSOR).exists())
        archive.stop()
        for number in range(2, 12):
            send(record, number)
        await asyncio.sleep(0)
        archive.start()
        await until(lambda: len(numbers(archive)) == 12)
        record.note("stopped", {"approved_by": "alice"})
        running.cancel()
        await sending.close()
        await until(lambda: len(numbers(archive)) == 13)

    asyncio.run(play())
    wanted = {entry.number for entry in entries(node.folder) if is_audited(entry)}
    assert numbers(archive) == wanted
    for priority, version, moment, application, msgid, text in archive.lines():
        assert (priority, version, application, msgid) == ("85", "1", "medveil-node", "DICOM+RFC3881")
        assert re.match(r"\d{4}-\d\d-\d\dT", moment)
        check_structure(ET.fromstring(text.lstrip(" \ufeff")))


def numbers(archive: rsyslog.Archive) -> set[int]:
    """Numbers of the entries that have arrived; what came twice counts once."""
    found = set()
    for *_, text in archive.lines():
        root = ET.fromstring(text.lstrip(" \ufeff"))
        for detail in root.iterfind(".//ParticipantObjectDetail[@type='entry']"):
            found.add(int(base64.b64decode(detail.attrib["value"])))
    return found


def page_at(folder: Path, clock: Callable[[], float]) -> Events:
    settings = NodeSettings(name="st-marys", aggregator="https://fl:1", data=folder, dataset="d")
    return Events(Node(folder, settings), clock)


def test_who_signs_in_at_the_page_and_who_is_refused_is_a_user_authentication(tmp_path: Path) -> None:
    clock = iter(range(100, 200))
    events = page_at(tmp_path, lambda: float(next(clock)))
    events.note("started", "/")
    events.note("refused", "/sign-in", "page-wrong-password")
    events.note("signed-in", "/")
    events.note("refused", "/ask", "page-cross-site")
    events.note("signed-out", "/sign-out")
    with events.path.open("a") as file:
        file.write("{\n[]\n" + '{"at": "x", "event": "signed-in", "route": "/"}\n')
    found = page_users(tmp_path, 0)
    assert [one.time_ms for one in found] == [101_000, 102_000, 104_000]
    assert page_users(tmp_path, 102_000) == found[2:]
    told = [ET.fromstring(message(one, SOURCE)) for one in found]
    for root in told:
        check_structure(root)
        event, kind = root.find(".//EventID"), root.find(".//EventTypeCode")
        assert event is not None
        assert kind is not None
        assert event.attrib["originalText"] == "User Authentication"
        assert root.findall("ActiveParticipant")[0].attrib["UserID"] == local_user()
    outcomes = [root[0].attrib["EventOutcomeIndicator"] for root in told]
    assert outcomes == ["4", "0", "0"]
    codes = [root.find(".//EventTypeCode").attrib["csd-code"] for root in told]  # type: ignore[union-attr]
    assert codes == ["110122", "110122", "110123"]
    assert framed(found[0], SOURCE).split(b" ", 1)[1].startswith(b"<84>1 ")


@rsyslog.needs_rsyslog
def test_sign_ins_at_the_page_reach_the_archive_once(
    tmp_path: Path, archive: rsyslog.Archive, quick: None
) -> None:
    node = node_for(tmp_path, archive)
    page = page_at(node.folder, time.time)
    page.note("signed-in", "/")

    async def play() -> None:
        sending = PageArchive(node, node.settings.audit_syslog)  # type: ignore[arg-type]
        for _ in range(2):
            await sending.send_all()
        page.note("signed-out", "/sign-out")
        await sending.close()
        await until(lambda: len(archive.lines()) == 2)

    asyncio.run(play())
    assert [line[-1].count("User Authentication") for line in archive.lines()] == [1, 1]


@rsyslog.needs_rsyslog
def test_an_archive_that_another_authority_vouches_for_is_told_nothing(
    tmp_path: Path, archive: rsyslog.Archive, quick: None
) -> None:
    node = node_for(tmp_path, archive)
    other = tmp_path / "other"
    rsyslog.make_certificates(other, ("127.0.0.1",))
    target = AuditSyslog(address=f"127.0.0.1:{archive.port}", authority=other / "ca.pem")
    send(record_in(node.folder))

    async def play() -> None:
        with pytest.raises(OSError, match="certificate verify failed"):
            await AuditArchive(node, target).send_all()

    asyncio.run(play())
    assert archive.lines() == []
    assert not (node.folder / CURSOR).exists()
