"""``medveil aggregator relay``: add the masked vectors of a region's hospitals on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.folders import named
from medveil.shown import Screen

relay = typer.Typer(
    no_args_is_help=True,
    help="A region's relay: it adds masked vectors, so that one goes on instead of many.",
)
screen = Screen()
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The relay's folder.")]
DEFAULT = Path("relay-data")


@relay.command()
def init(
    name: Annotated[str, typer.Option(help="The relay's name, e.g. north.")],
    aggregator: Annotated[str, typer.Option(help="Address, e.g. https://fl.example.org:8443")],
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")],
    hospital: Annotated[list[str], typer.Option(help="A hospital of the region; at least two.")],
    folder: Folder = DEFAULT,
    dns: Annotated[list[str], typer.Option(help="DNS name or address of this machine; repeatable.")] = [  # noqa: B006
        "localhost",
        "127.0.0.1",
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8444,
) -> None:
    """Make the relay's folder: key, TLS certificate, settings."""
    from aggregator.relay.set_up import set_up_relay
    from medveil.ids import fingerprint

    told = {"name": name, "aggregator": aggregator, "hospitals": hospital}
    made = set_up_relay(folder, authority, told | {"host": host, "port": port, "names": dns})
    screen.say(f"The relay of {name} is ready in {folder}.")
    screen.say(f"  For its hospitals:  {folder / 'tls' / 'ca.pem'}  and its address")
    screen.say(f"  Its fingerprint:    {fingerprint(made)}")
    screen.say(f"  Next:               medveil aggregator relay enroll TOKEN {named(folder)}")


@relay.command()
def enroll(
    token: Annotated[str, typer.Argument(help="From the consortium's admin: enroll-token NAME --relay.")],
    folder: Folder = DEFAULT,
) -> None:
    """Show the one-time token to the aggregator."""
    from aggregator.relay.set_up import enrol_relay

    name = enrol_relay(folder, token)
    screen.say(f"The relay {name} is enrolled.")
    screen.say(f"  Next:  medveil aggregator relay serve {named(folder)}")


@relay.command()
def serve(folder: Folder = DEFAULT) -> None:
    """Run the relay until it is told to stop."""
    from aggregator.relay.app import create_app
    from aggregator.relay.settings import RelayFolder
    from aggregator.web.connections import run
    from medveil.log import get_logger, set_up

    set_up()
    found = RelayFolder.load(folder)
    get_logger().info("relay.starting", port=found.settings.port)
    run(create_app(found), found.serving(), found.tls)
