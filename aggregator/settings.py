"""Where the aggregator keeps things, and what it listens on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from medveil.errors import BadFile


@dataclass(frozen=True)
class Settings:
    """One aggregator: its folder and its address.

    The folder holds ``aggregator.json`` (these settings), ``admin.key``, ``tls/``, ``aggregator.db``,
    ``models/`` and ``uploads/``.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """DNS names and addresses in the server's certificate."""
    workers: int = 0
    """Most processes that unmask sums; 0 stands for one for each core."""

    @property
    def url(self) -> str:
        """Address for the hospitals."""
        return f"https://{self.names[0]}:{self.port}"

    def save(self) -> None:
        """Write ``aggregator.json``."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "aggregator.json").write_text(json.dumps(values, indent=2) + "\n")


def load(folder: Path) -> Settings:
    """Read the settings of an aggregator made by ``medveil aggregator init``.

    Raises: BadFile.
    """
    path = folder / "aggregator.json"
    try:
        values = json.loads(path.read_text())
        known = {f.name for f in fields(Settings)} - {"folder"}
        if set(values) - known:
            raise ValueError(f"it does not know {', '.join(sorted(set(values) - known))}")
        return Settings(
            folder=folder,
            host=values["host"],
            port=int(values["port"]),
            names=tuple(values["names"]),
            workers=int(values.get("workers", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(name=str(path.name), problem=str(error) or type(error).__name__) from error
