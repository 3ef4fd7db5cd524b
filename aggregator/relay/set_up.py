"""Making a relay and enrolling it, as functions that return values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from aggregator.access.tls import make_certificates
from aggregator.relay.line import enrol_once
from aggregator.relay.settings import FILE, RelayFolder, RelaySettings
from medveil.authority import read_authority
from medveil.errors import BadOption
from medveil.handed import problem_of
from medveil.identity import Identity


def set_up_relay(folder: Path, authority: Path, told: Mapping[str, Any]) -> bytes:
    """Make a relay's folder: key, settings, the aggregator's authority, a TLS certificate of its own.

    Args:
        told: the fields of :class:`RelaySettings`.
    Returns: the certificate of the relay's own authority (DER), which its hospitals pin.
    Raises: BadOption, BadFile; KeyFileExists if there is a relay in the folder.
    """
    try:
        made = RelayFolder(folder, RelaySettings.model_validate(dict(told)))
    except ValidationError as error:
        raise BadOption(problem=problem_of(error)) from error
    pinned = read_authority(authority)
    Identity.generate(made.settings.name).save(made.key)
    made.authority.write_bytes(pinned)
    make_certificates(made.tls, made.settings.names)
    made.save()
    own = x509.load_pem_x509_certificate((made.tls / "ca.pem").read_bytes())
    return own.public_bytes(Encoding.DER)


def enrol_relay(folder: Path, token: str) -> str:
    """Make a relay known to the aggregator; its name. Raises: NoRelay, AggregatorRefuses."""
    found = RelayFolder.load(folder)
    told, identity = found.settings, Identity.load(found.settings.name, found.key)
    enrol_once(told.aggregator, found.authority, identity, token, proxy=told.proxy, file=FILE)
    return told.name
