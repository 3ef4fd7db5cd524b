"""Asking the keepers: identifiers become tags, and tags this hospital's persons, or another's.

All keepers make a tag, and all must say that the person is this hospital's. They are asked in the order of
the persons file, and each only about persons whom those before have given: so of two hospitals that ask at
once one has the person, and not none. An interruption loses nothing: what is asked again is the same request.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hospital_node.cohort import Names
from hospital_node.line import AggregatorProblem
from hospital_node.patients_key import patients_key
from hospital_node.persons.known import KnownPersons, standings_of
from hospital_node.persons.people import People, read_people
from hospital_node.settings import Node, PersonsSettings
from medveil.errors import BadFile, Error
from medveil.files import replace_durably
from medveil.handed import read_json, written
from medveil.identity import Identity, Secret
from medveil.persons import Keeper, Persons
from privacy.oprf.hospital import ask, claim, tags
from privacy.oprf.messages import BATCH

PRIVATE_BYTES, NONCE_BYTES = 32, 12


class NoPersonsFile(Error):
    """This hospital does not know the consortium's keepers."""

    code = "no-persons-file"

    def __init__(self) -> None:
        super().__init__(
            what="This node uses no persons file.",
            meaning="It does not know whom to ask whose a person is. Nobody was asked.",
            remedy="Get the file from the consortium's admin: medveil node persons use FILE --column NAME.",
        )


class KeeperAway(Error):
    """A keeper does not answer, or nobody of its name is enrolled."""

    code = "keeper-away"

    def __init__(self, *, keeper: str, enrolled: bool) -> None:
        what = "does not answer" if enrolled else "is not enrolled at the aggregator"
        super().__init__(
            what=f"The keeper '{keeper}' {what}.",
            meaning="Every keeper must answer. Nobody was claimed by this question, and nothing is lost: "
            "what the others have answered counts once.",
            remedy="Telephone the keeper ('medveil aggregator keeper run' must run), then ask again.",
        )


class Post(Protocol):
    """The way to the keepers."""

    async def letter(self, keeper: str, body: bytes) -> bytes:
        """A keeper's answer. Raises: AggregatorProblem, Unreachable."""
        ...


@dataclass(frozen=True)
class Counts:
    """How many patients of the images folder are what."""

    own: int
    elsewhere: int
    """Whose persons are another hospital's: they are left out."""
    unasked: int
    unknown: int
    """Without an identifier, or with several: left out."""
    several: int
    """Under several pseudonyms: left out until the manifest gives them one."""


def use(node: Node, file: Path, columns: Sequence[str], table: Path | None) -> tuple[Node, Persons]:
    """From now on know persons by this file and these columns; the manifest's, if no table is named.

    Another file is taken as long as the keepers of the one before have given this hospital nobody.

    Args:
        columns: if there is none, PatientID and its issuer in the DICOM files.

    Raises: BadFile, also if the list cannot be read or has no such column; nothing is changed then.
    """
    persons = read_json(file, Persons)
    told = PersonsSettings(
        hash=persons.hash.hex(),
        columns=tuple(columns),
        table=None if table is None else table.absolute(),
    )
    before = node.settings.persons
    if before is not None and before.hash != told.hash and node.known_persons.exists():
        raise BadFile(
            name=file.name, problem="this node has claimed by another persons file; one is for life"
        )
    read_people(node.settings.data, told)
    replace_durably(node.persons, written(persons), private=True)
    changed = Node(node.folder, node.settings.model_copy(update={"persons": told}))
    changed.save()
    return changed, persons


def persons_of(node: Node) -> tuple[Persons, PersonsSettings]:
    """The file that this node uses. Raises: NoPersonsFile, BadFile."""
    told = node.settings.persons
    if told is None:
        raise NoPersonsFile()
    persons = read_json(node.persons, Persons)
    if persons.hash.hex() != told.hash:
        raise BadFile(name=node.persons.name, problem="it is not the file that this node began to use")
    return persons, told


def counts(node: Node, identity: Identity) -> Counts:
    """Where the patients of the images folder stand. Raises: NoPersonsFile, BadFile."""
    persons, told = persons_of(node)
    people = read_people(node.settings.data, told)
    return _counted(people, KnownPersons(node, identity, persons.hash), Names(identity))


async def claim_persons(node: Node, identity: Identity, post: Post) -> Counts:
    """Ask the keepers about everybody in the images folder of whom they have not been asked.

    Guarantees: a patient is noted as this hospital's only after every keeper has said so, with an answer
    that was made for exactly this question; what was noted is on stable storage.
    Raises: NoPersonsFile, BadFile, KeeperRefuses, BadEvaluation, BadBox, BadMessage, AggregatorProblem,
        KeeperAway, Unreachable. What was noted before stays noted, and nobody else is this hospital's.
    """
    persons, told = persons_of(node)
    people, names = read_people(node.settings.data, told), Names(identity)
    known = KnownPersons(node, identity, persons.hash)
    key = patients_key(node.folder)[0].reveal()
    secret = Secret(hmac.digest(key, b"medveil persons", "sha256"))
    wanted = sorted((names.patient(p), form) for p, form in people.forms.items())
    wanted = [(patient, form) for patient, form in wanted if not known.knows(patient, form)]
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        asking = _Asking(persons, identity, secret, post)
        named = await asking.tags([form for _, form in batch])
        given = await asking.given(named)
        for (patient, form), tag, own in zip(batch, named, given, strict=True):
            known.add(patient, form, tag, own=own)
        known.save()
    return _counted(people, known, names)


@dataclass(frozen=True)
class _Asking:
    persons: Persons
    identity: Identity
    secret: Secret
    post: Post

    async def tags(self, forms: list[bytes]) -> list[bytes]:
        outputs = []
        for keeper in self.persons.keepers:
            asked = await asyncio.to_thread(
                ask, self.persons, keeper, forms, identity=self.identity, secret=self.secret
            )
            answer = await self._letter(keeper, asked.request)
            outputs.append(await asyncio.to_thread(asked.outputs, answer))
        return tags(self.persons, outputs)

    async def given(self, named: list[bytes]) -> list[bool]:
        own = [True] * len(named)
        for keeper in self.persons.keepers:
            rest = [i for i, still in enumerate(own) if still]
            if rest:
                claimed = claim(
                    self.persons,
                    keeper,
                    [named[i] for i in rest],
                    secret=self.secret,
                    private=secrets.token_bytes(PRIVATE_BYTES),
                    nonce=secrets.token_bytes(NONCE_BYTES),
                )
                answer = claimed.given(await self._letter(keeper, claimed.request))
                for i, given in zip(rest, answer, strict=True):
                    own[i] = given
        return own

    async def _letter(self, keeper: Keeper, body: bytes) -> bytes:
        try:
            return await self.post.letter(keeper.name, body)
        except AggregatorProblem as error:
            if error.code in ("keeper-silent", "not-found"):
                raise KeeperAway(keeper=keeper.name, enrolled=error.code != "not-found") from error
            raise


def _counted(people: People, known: KnownPersons, names: Names) -> Counts:
    found = standings_of(people, known, names)
    nobodys = len(people.unknown) + len(people.several)
    answered = len(found.asked) - nobodys
    return Counts(
        own=len(found.own),
        elsewhere=answered - len(found.own),
        unasked=len(people.forms) - answered,
        unknown=len(people.unknown),
        several=len(people.several),
    )
