"""``medveil node relay``: by way of which relay masked vectors go to the aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.errors import BadOption
from medveil.shown import Screen, plain

screen = Screen()


def relay(
    address: Annotated[
        str, typer.Option(help="The relay's address, e.g. https://north.example.org:8444")
    ] = "",
    authority: Annotated[
        Path | None, typer.Option(help="The relay's ca.pem, as its operator gave it.")
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Send to the aggregator only, as without a relay.")
    ] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Send masked vectors by way of the region's relay, or say by way of which they go."""
    node = node_in(folder)
    if (none and address) or (authority is not None and not none and not address):
        raise BadOption(problem="--none and --address: one of them")
    from hospital_node.enrolment import set_relay
    from medveil.authority import fingerprints_in

    if address or none:
        node = set_relay(node, address.rstrip("/"), authority)
        screen.say("A running node takes it up when it is started again.")
    if node.settings.relay is None:
        screen.say("Masked vectors go to the aggregator directly.")
        return
    screen.say(f"Masked vectors go by way of {plain(node.settings.relay.address)}, and directly if it fails.")
    for one in fingerprints_in(node.relay_authority.read_bytes()):
        screen.say(f"  The relay's ca:  {one}")
