"""What an operator does first: make the node's folder, make the hospital known, get a TLS certificate.

As :mod:`hospital_node.operator`, and apart from it, since nothing here looks at patients or budgets.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hospital_node.settings import Node, NodeSettings, RelaySettings
from medveil.authority import read_authority
from medveil.errors import BadFile, BadOption
from medveil.files import replace_durably
from medveil.handed import problem_of
from medveil.shown import plain

if TYPE_CHECKING:
    from hospital_node.transport import Transport

PATIENCE_S = 5.0
"""How long a command that a person waits for tries to reach the aggregator."""


def set_up_node(folder: Path, settings: NodeSettings, authority: Path) -> Node:
    """Make the node's folder: identity key, settings, pinned authority. Raises: BadFile, KeyFileExists."""
    node = Node(folder, settings)
    certificate = read_authority(authority)
    if not settings.data.is_dir():
        raise BadFile(name="--data", problem=f"there is no folder '{plain(settings.data)}'")
    from medveil.identity import Identity

    Identity.generate(settings.name).save(node.key)
    node.authority.write_bytes(certificate)
    node.save()
    return node


def set_relay(node: Node, address: str, authority: Path | None) -> Node:
    """The node with the relay of its region, or with none if the address is empty.

    Args:
        authority: the relay's certificate authority (PEM).
    Raises: BadOption, BadFile; then nothing was changed.
    """
    from pydantic import ValidationError

    relay = None
    if address:
        if authority is None:
            raise BadOption(problem="--authority is missing: the relay's ca.pem")
        try:
            relay = RelaySettings(address=address)
        except ValidationError as error:
            raise BadOption(problem=problem_of(error)) from error
        pem = read_authority(authority)
        replace_durably(node.relay_authority, pem, private=True)
    changed = Node(node.folder, node.settings.model_copy(update={"relay": relay}))
    changed.save()
    return changed


def line_to_aggregator(node: Node) -> Transport:
    """For a command that a person waits for."""
    from hospital_node.transport import Transport
    from medveil.identity import Identity

    identity = Identity.load(node.settings.name, node.key)
    return Transport(
        node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S, proxy=node.settings.proxy
    )


async def enrol(node: Node, token: str) -> None:
    """Make this hospital known to the aggregator. Raises: AggregatorProblem, Unreachable."""
    async with line_to_aggregator(node) as transport:
        await transport.enrol(token)


async def get_certificate(node: Node) -> None:
    """Get a TLS client certificate. Raises: AggregatorProblem, Unreachable."""
    from hospital_node import certificate

    async with line_to_aggregator(node) as transport:
        await certificate.get_certificate(node, transport)
