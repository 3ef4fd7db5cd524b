"""``medveil node page``: this hospital's node in a browser of this machine."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.shown import NotConfirmed, Screen, can_ask

screen = Screen()


def page(
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; a free one if left out.", min=0, max=65535)
    ] = 0,
    host: Annotated[str, typer.Option(help="127.0.0.1; the page listens on no other address.")] = "127.0.0.1",
    set_password: Annotated[
        bool, typer.Option("--set-password", help="Ask for a password, keep its hash, and end.")
    ] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Serve this node's own page on this machine, and print a link that opens it once."""
    node = node_in(folder)
    from hospital_node.page import password
    from hospital_node.page.serving import check_address, serve
    from medveil.log import set_up

    check_address(host)
    if set_password:
        password.set_password(node, _typed("New password for the page: "), _typed("The same again: "))
        screen.say("The password is set. Pages that are open stay signed in until they end.")
        return
    set_up("warning")
    screen.say("The page of this node is served on this machine only, until Ctrl-C. Open it with this link:")
    serve(node, port, lambda link: screen.say(f"  {link}"))


def _typed(question: str) -> str:
    if not can_ask():
        raise NotConfirmed()
    return getpass.getpass(question)
