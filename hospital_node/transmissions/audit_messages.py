"""Entries of the record as DICOM audit messages, framed for syslog over TLS.

Source: DICOM PS3.15 A.5 (message, codes), IHE ITI TF-2 3.20 (facility and severity).
"""

from __future__ import annotations

import base64
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from hospital_node.transmissions.entries import Entry
from hospital_node.transmissions.requests import MASKED
from medveil import syslog
from medveil.shown import plain

MSGID = "DICOM+RFC3881"
OURS = "99MEDVEIL"
"""Of codes that DICOM does not have."""
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'
"""Without a line break: syslog servers show control characters in another form."""
DCM = {
    "110100": "Application Activity",
    "110106": "Export",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110122": "Login",
    "110123": "Logout",
    "110150": "Application",
    "110151": "Application Launcher",
    "110153": "Source Role ID",
    "110154": "Destination Media",
    "110037": "URI",
}
TYPES = {"started": "110120", "stopped": "110121", "login": "110122", "logout": "110123"}
GOOD, MINOR = "0", "4"
TOLD = ("plan", "round", "attempt", "segment", "bytes", "sha256", "epsilon", "code")
"""What of an entry goes into a message, besides its number and hash."""


@dataclass(frozen=True)
class AuditSource:
    """Who tells it: the node, its site, its host and process."""

    node: str
    site: str = ""
    host: str = ""
    process: int = 0

    @classmethod
    def here(cls, node: str, site: str) -> AuditSource:
        """This process."""
        return cls(node, site, syslog.own_host(), os.getpid())


def is_audited(entry: Entry) -> bool:
    """Whether an entry becomes an audit message."""
    return entry.kind in (MASKED, "started", "stopped", "alert", "person", "begun-anew")


def framed(entry: Entry, source: AuditSource) -> bytes:
    """One syslog message with its length before it."""
    return syslog.counted(
        syslog.line(
            message(entry, source),
            time_ms=entry.time_ms,
            severity=syslog.NOTICE if _outcome(entry) == GOOD else syslog.WARNING,
            program="medveil-node",
            kind=MSGID,
            host=source.host,
            process=source.process,
        )
    )


def message(entry: Entry, source: AuditSource) -> bytes:
    """The XML of an entry for which :func:`is_audited` is true. What is in no entry is in no message."""
    root = ET.Element("AuditMessage")
    match entry.kind:
        case "started" | "stopped":
            _event(root, entry, "110100", "E", TYPES[entry.kind])
            _participant(root, source.node, "110150", host=source.host)
            _participant(root, _person(entry), "110151", asked=True)
        case "person" | "page":
            _event(root, entry, "110114", "E", TYPES.get(str(entry.told.get("event")), "110122"))
            _participant(root, _person(entry), "", asked=True)
            _participant(root, source.node, "110150", host=source.host)
        case kind if kind == MASKED:
            _event(root, entry, "110106", "R", "")
            _participant(root, source.node, "110153", host=source.host)
            _participant(root, _person(entry), "110153", asked=True)
            _destination(root, entry)
        case _:
            _event(root, entry, "110113", "E", "", own=str(entry.told.get("event", entry.kind)))
            _participant(root, source.node, "110150", host=source.host)
    _source(root, source)
    _object(root, entry)
    return DECLARATION + bytes(ET.tostring(root, encoding="utf-8"))


def _event(root: ET.Element, entry: Entry, code: str, action: str, type_: str, own: str = "") -> None:
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=syslog.time_of(entry.time_ms),
        EventOutcomeIndicator=_outcome(entry),
    )
    _code(event, "EventID", code)
    if type_:
        _code(event, "EventTypeCode", type_)
    elif own:
        words = plain(own, 60)
        _code(event, "EventTypeCode", words, system=OURS, text=words)


def _participant(root: ET.Element, who: str, role: str, *, host: str = "", asked: bool = False) -> None:
    told = {"UserID": who, "UserIsRequestor": "true" if asked else "false"}
    if host:
        told |= {"NetworkAccessPointID": host, "NetworkAccessPointTypeCode": "1"}
    participant = ET.SubElement(root, "ActiveParticipant", told)
    if role:
        _code(participant, "RoleIDCode", role)


def _destination(root: ET.Element, entry: Entry) -> None:
    """Where it went: the aggregator, by its address and the authority that vouches for it."""
    to = plain(entry.told.get("to", "?"), 200)
    told = {
        "UserID": to,
        "UserIsRequestor": "false",
        "AlternativeUserID": str(entry.told.get("authority", "")),
    }
    told |= {"NetworkAccessPointID": to, "NetworkAccessPointTypeCode": "5"}
    participant = ET.SubElement(root, "ActiveParticipant", told)
    _code(participant, "RoleIDCode", "110154")
    media = ET.SubElement(participant, "MediaIdentifier")
    _code(media, "MediaType", "110037")


def _source(root: ET.Element, source: AuditSource) -> None:
    told = {"AuditSourceID": source.node}
    if source.site:
        told["AuditEnterpriseSiteID"] = source.site
    found = ET.SubElement(root, "AuditSourceIdentification", told)
    ET.SubElement(found, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server process


def _object(root: ET.Element, entry: Entry) -> None:
    """The entry itself: with number and hash the archive holds what the record can be compared with."""
    plan = str(entry.told.get("plan", ""))
    thing = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=plan or f"{entry.number}",
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="20" if plan else "13",  # a job; a security resource
    )
    kind = ("entry", "Entry of the record of transmissions")
    if entry.kind == "page":
        kind = ("page", "The operator's page of a node")
    elif plan:
        kind = ("plan", "Plan of a federated study")
    _code(thing, "ParticipantObjectIDTypeCode", kind[0], system=OURS, text=kind[1])
    ET.SubElement(thing, "ParticipantObjectName").text = entry.kind
    told = {"entry": entry.number, "hash": entry.hash.hex()} | {
        k: entry.told[k] for k in TOLD if k in entry.told
    }
    for name, value in told.items():
        encoded = base64.b64encode(str(value).encode()).decode()
        ET.SubElement(thing, "ParticipantObjectDetail", type=name, value=encoded)


def _code(under: ET.Element, name: str, code: str, *, system: str = "DCM", text: str = "") -> None:
    told = {"csd-code": code, "codeSystemName": system, "originalText": text or DCM[code]}
    ET.SubElement(under, name, told)


def _person(entry: Entry) -> str:
    return plain(entry.told.get("approved_by", "") or "unknown", 120)


def _outcome(entry: Entry) -> str:
    return MINOR if entry.kind in ("alert", "begun-anew") or entry.told.get("answer") == "refused" else GOOD
