"""Making a keeper, enrolling it, and the consortium's persons file, as functions that return values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aggregator.keeper.settings import FILE, KeeperFolder, KeeperSettings
from aggregator.relay.line import enrol_once
from medveil.authority import read_authority
from medveil.errors import BadOption
from medveil.files import replace_durably
from medveil.handed import problem_of, read_json, written
from medveil.identity import Identity
from medveil.persons import Keeper, Persons


def set_up_keeper(folder: Path, authority: Path, told: Mapping[str, Any]) -> KeeperFolder:
    """Make a keeper's folder: keys, settings, the aggregator's authority, and what it may show of itself.

    Args:
        told: the fields of :class:`KeeperSettings`.
    Raises: BadOption, BadFile; KeyFileExists if there is a keeper in the folder.
    """
    try:
        made = KeeperFolder(folder, KeeperSettings.model_validate(dict(told)))
    except ValidationError as error:
        raise BadOption(problem=problem_of(error)) from error
    pinned = read_authority(authority)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Identity.generate(made.settings.name).save(made.key)
    made.make_keys()
    made.authority.write_bytes(pinned)
    made.save()
    replace_durably(made.public, written(made.described()))
    return made


def enrol_keeper(folder: Path, token: str) -> str:
    """Make a keeper known to the aggregator; its name. Raises: NoKeeper, AggregatorRefuses."""
    found = KeeperFolder.load(folder)
    told = found.settings
    enrol_once(told.aggregator, found.authority, found.identity(), token, proxy=told.proxy, file=FILE)
    return told.name


def write_persons(target: Path, name: str, identifier: str, keepers: Sequence[Path]) -> Persons:
    """Write a consortium's persons file of what its keepers have shown. Raises: BadOption, BadFile."""
    if target.exists():
        raise BadOption(problem=f"--out: there is a file '{target.name}'; the one that is used is for life")
    shown = [read_json(path, Keeper) for path in keepers]
    try:
        persons = Persons(name=name, identifier=identifier, keepers=tuple(shown))
    except ValidationError as error:
        raise BadOption(problem=problem_of(error)) from error
    replace_durably(target, written(persons))
    return persons
