"""One relay: its folder, its address, its aggregator, and the hospitals that it adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from aggregator.settings import Limits, Settings
from medveil.errors import Error
from medveil.folders import settings_in
from medveil.handed import parsed, written
from medveil.relaying import MOST_RELAYED
from medveil.values import Frozen, Name

FILE = "relay.json"


class NoRelay(Error):
    """The folder holds no relay."""

    code = "no-relay"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"There is no relay in the folder '{folder}'.",
            meaning="Nothing was done.",
            remedy="Name the relay's folder with --folder, or make one with 'medveil aggregator relay init'.",
        )


class RelaySettings(Frozen):
    """Kept in ``relay.json``; beside it lie the key, the aggregator's authority and ``tls/``."""

    name: Name
    aggregator: Annotated[str, Field(pattern=r"^https://[^/]+$")]
    hospitals: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MOST_RELAYED)]
    """Whose masked vectors are added here."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8444
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    """DNS names and addresses in the relay's certificate."""
    proxy: Annotated[str, Field(max_length=500)] = ""
    """On the way to the aggregator; the environment's if empty (:func:`medveil.reachability.proxy_to`)."""


class RelayFolder:
    """The relay's folder and what lies where in it."""

    def __init__(self, folder: Path, settings: RelaySettings) -> None:
        self.folder, self.settings = folder, settings
        self.key = folder / "identity.key"
        self.authority = folder / "aggregator-ca.pem"
        self.tls = folder / "tls"
        self.held = folder / "held"
        self.token = folder / "monitor.token"
        """What Prometheus shows to read the metrics; made at the first start."""

    @classmethod
    def load(cls, folder: Path) -> RelayFolder:
        """Read the folder that ``medveil aggregator relay init`` made.

        Raises: NoRelay, FolderOfAnother, BadFile.
        """
        data = settings_in(folder, FILE, NoRelay)
        return cls(folder, parsed(RelaySettings, data, name=str(folder / FILE)))

    def save(self) -> None:
        """Write ``relay.json``."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / FILE).write_bytes(written(self.settings))

    def serving(self, limits: Limits | None = None) -> Settings:
        """What the server listens on."""
        told = self.settings
        return Settings(self.folder, told.host, told.port, told.names, limits=limits or Limits())
