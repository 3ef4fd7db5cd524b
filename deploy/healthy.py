"""Whether what runs in this container works: exit 0, or a sentence and 1.
``healthy.py aggregator|node|keeper|scheduler|worker``.

Only the standard library is imported, so that a look every half minute costs next to nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
from pathlib import Path

SILENT_S = 120.0
"""A node writes its ``live.json`` every ten seconds, also while it trains; the others touch a file of
their own as often, or each time they ask for letters (:mod:`medveil.alive`)."""
TOUCHING = ("keeper", "scheduler", "worker")
"""They accept no connection, or none of a stranger's."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def aggregator(folder: Path) -> str:
    """What is wrong; empty if it answers. One that stands by is well, too."""
    settings = json.loads((folder / "aggregator.json").read_text())
    host = EVERYWHERE.get(settings["host"], settings["host"])
    # It is asked over this container's own loopback, so whose certificate it shows does not matter.
    link = http.client.HTTPSConnection(
        host, settings["port"], timeout=8, context=ssl._create_unverified_context()
    )
    link.request("GET", "/healthz")
    status = link.getresponse().status
    return "" if status == 200 else f"the aggregator answers {status}"


def node(folder: Path) -> str:
    """What is wrong; empty if it runs and is not silent. That an operator is needed is no illness."""
    told = json.loads((folder / "live.json").read_text())
    if told["stopped"]:
        return "the node was stopped"
    return _silent("node", told["updated"])


def touching(kind: str) -> str:
    """What is wrong; empty if it goes round. That its aggregator or scheduler is away is no illness."""
    return _silent(kind, os.stat(os.environ["MEDVEIL_ALIVE"]).st_mtime)


def _silent(kind: str, heard: float) -> str:
    silent = time.time() - heard
    return "" if silent < SILENT_S else f"the {kind} has told nothing for {silent:.0f} seconds"


def main() -> int:
    kind, *folder = sys.argv[1:]
    try:
        if kind in TOUCHING:
            problem = touching(kind)
        else:
            look = {"aggregator": aggregator, "node": node}[kind]
            problem = look(Path(folder[0] if folder else f"{kind}-data"))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        problem = f"the {kind} does not answer ({type(error).__name__})"
    if problem:
        sys.stderr.write(problem + "\n")
    return bool(problem)


if __name__ == "__main__":
    raise SystemExit(main())
