"""One keeper: its folder, its keys, its aggregator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field

from medveil.errors import BadFile, Error
from medveil.files import new_private, replace_durably
from medveil.folders import settings_in
from medveil.handed import parsed, read_json, written
from medveil.identity import Identity, Secret
from medveil.persons import Keeper, Persons
from medveil.values import Frozen, Name
from privacy.oprf.group import multiple_of_base
from privacy.oprf.keeper import KeeperKeys

FILE = "keeper.json"
EVALUATION_BYTES, SEALING_BYTES = 48, 32


class NoKeeper(Error):
    """The folder holds no keeper."""

    code = "no-keeper"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"There is no keeper in the folder '{folder}'.",
            meaning="Nothing was done.",
            remedy="Name the keeper's folder with --folder, or make one: medveil aggregator keeper init.",
        )


class NoPersons(Error):
    """A keeper that does not know yet whose persons it keeps."""

    code = "no-persons"

    def __init__(self) -> None:
        super().__init__(
            what="This keeper has no persons file yet.",
            meaning="It does not know which consortium it keeps persons for, so it answers nothing.",
            remedy="Get the file from the consortium's admin: medveil aggregator keeper adopt persons.json.",
        )


class OtherKeys(Error):
    """A persons file that names this keeper with other keys, or not at all."""

    code = "keeper-other-keys"

    def __init__(self) -> None:
        super().__init__(
            what="The persons file does not name this keeper with its own keys.",
            meaning="Hospitals would refuse its answers. Nothing was adopted.",
            remedy="Give the admin this keeper's public.json again, and adopt the file that is made of it.",
        )


class PersonsForLife(Error):
    """A keeper keeps the persons of one file only."""

    code = "keeper-for-life"

    def __init__(self) -> None:
        super().__init__(
            what="This keeper keeps the persons of another persons file already.",
            meaning="Under a new file everybody could be claimed a second time, and pay a second time. "
            "Nothing was changed.",
            remedy="For another consortium make a keeper in a folder of its own.",
        )


class KeeperSettings(Frozen):
    """Kept in ``keeper.json``."""

    name: Name
    aggregator: Annotated[str, Field(pattern=r"^https://[^/]+$")]
    proxy: Annotated[str, Field(max_length=500, repr=False)] = ""
    """On the way to the aggregator; the environment's if empty (:func:`medveil.reachability.proxy_to`)."""


class KeeperFolder:
    """The keeper's folder and what lies where in it."""

    def __init__(self, folder: Path, settings: KeeperSettings) -> None:
        self.folder, self.settings = folder, settings
        self.key = folder / "identity.key"
        self.evaluation = folder / "evaluation.key"
        self.sealing = folder / "sealing.key"
        self.authority = folder / "aggregator-ca.pem"
        self.public = folder / "public.json"
        self.persons_file = folder / "persons.json"
        self.book = folder / "keeper.db"

    @classmethod
    def load(cls, folder: Path) -> KeeperFolder:
        """Read the folder that ``medveil aggregator keeper init`` made.

        Raises: NoKeeper, FolderOfAnother, BadFile.
        """
        data = settings_in(folder, FILE, NoKeeper)
        return cls(folder, parsed(KeeperSettings, data, name=str(folder / FILE)))

    def save(self) -> None:
        """Write ``keeper.json``, whole or not at all."""
        replace_durably(self.folder / FILE, written(self.settings), private=True)

    def identity(self) -> Identity:
        """By which the aggregator knows it."""
        return Identity.load(self.settings.name, self.key)

    def keys(self) -> KeeperKeys:
        """What it must never show. Raises: BadFile."""
        return KeeperKeys(_read(self.evaluation, EVALUATION_BYTES), _read(self.sealing, SEALING_BYTES))

    def make_keys(self) -> None:
        """New keys, readable by their owner only, never over others. Raises: FileExistsError."""
        for path, size in ((self.evaluation, EVALUATION_BYTES), (self.sealing, SEALING_BYTES)):
            with os.fdopen(new_private(path), "wb") as file:
                file.write(os.urandom(size))
                file.flush()
                os.fsync(file.fileno())

    def described(self) -> Keeper:
        """What the persons file says of it."""
        keys = self.keys()
        private = X25519PrivateKey.from_private_bytes(keys.sealing.reveal())
        return Keeper(
            name=self.settings.name,
            evaluation=multiple_of_base(keys.scalar).to_bytes().hex(),
            sealing=private.public_key().public_bytes_raw().hex(),
        )

    def persons(self) -> Persons:
        """Whose persons it keeps. Raises: NoPersons, BadFile."""
        if not self.persons_file.exists():
            raise NoPersons()
        return read_json(self.persons_file, Persons)

    def adopt(self, persons: Persons) -> None:
        """Keep the persons of this file, for life. Raises: OtherKeys, PersonsForLife."""
        if self.described() not in persons.keepers:
            raise OtherKeys()
        if self.persons_file.exists() and self.persons().hash != persons.hash:
            raise PersonsForLife()
        replace_durably(self.persons_file, written(persons))


def _read(path: Path, size: int) -> Secret:
    try:
        value = path.read_bytes()
    except OSError as error:
        raise BadFile(name=path.name, problem="it cannot be read") from error
    if len(value) != size:
        raise BadFile(name=path.name, problem="it holds no key; restore it from a backup")
    return Secret(value)
