"""A fetch from a PACS that dies at its first write, at its second, and so on until one lives to its end.

``python dying_fetcher.py URL FOLDER`` makes ``FOLDER/1``, ``FOLDER/2`` …, a node's folder each, and says how
many there are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dicomweb import DicomWeb
from hospital_node.pacs.fetching import Fetching, Wanted
from hospital_node.pacs.store import store_of
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.identity import Identity

WRITES = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"})
MOST = 200


def die_at(write: int, folder: Path) -> None:
    """End this process, as a power cut would, before its n-th change of what lies below a folder."""
    left = write

    def hook(event: str, told: tuple[object, ...]) -> None:
        nonlocal left
        changes = event in WRITES or (event == "open" and isinstance(told[2], int) and told[2] & os.O_CREAT)
        if changes and str(told[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os._exit(1)

    sys.addaudithook(hook)


def fetch(url: str, folder: Path, write: int) -> None:
    values = NodeSettings(
        name="st-marys", aggregator="https://here", data=folder, dataset="films", policy=Policy()
    )
    node = Node(folder / str(write), values)
    node.save()
    Identity.generate("st-marys").save(node.key)
    store = store_of(node)
    die_at(write, node.folder)
    Fetching(DicomWeb(url), store, Wanted(), cleaner(store.names)).run()


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    for write in range(1, MOST):
        child = os.fork()
        if child == 0:
            fetch(url, folder, write)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            sys.stdout.write(f"{write}\n")
            return
    raise SystemExit("no fetch came to its end")


if __name__ == "__main__":
    main()
