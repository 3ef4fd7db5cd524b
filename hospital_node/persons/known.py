"""What this hospital has asked: for each patient whether the person is this hospital's, and who it is to it.

Sealed on disk under a key of the node's identity. No identifier and no tag is in it: both are hashed under
keys of this node. Lost, it is asked anew, with the same answers and without counting again.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hospital_node.cohort import Cohort, Names
from hospital_node.persons.people import People, read_people
from hospital_node.sealed import SealedFile
from hospital_node.settings import Node
from medveil.errors import Error
from medveil.identity import Identity
from medveil.ids import join

FORMAT = "medveil persons 1"


class PersonsNotAsked(Error):
    """Patients of whom the keepers have not been asked."""

    code = "persons-not-asked"

    def __init__(self, *, count: int) -> None:
        super().__init__(
            what=f"The keepers have not been asked yet whose {count} of the patients here are.",
            meaning="The study lets nobody be in two hospitals, so nothing was approved or taken.",
            remedy="Ask them: medveil node persons claim. Then do this again.",
        )


class PersonTwice(Error):
    """Patients of a cohort who should each be a person of their own, and are not."""

    code = "person-twice"

    def __init__(self) -> None:
        super().__init__(
            what="The patients of this study are not each a person of their own.",
            meaning="Somebody might count twice in a sum, and its noise would protect half as well. Nothing "
            "was computed.",
            remedy="This is a fault of the program, or a file of the node was altered: please report it.",
        )


def check_alone(cohort: Cohort) -> None:
    """Look once more, before anything is computed, that each patient is one person. Raises: PersonTwice."""
    persons = [held.person for held in cohort.patients.values()]
    if not all(persons) or len(set(persons)) != len(persons):
        raise PersonTwice()


@dataclass(frozen=True)
class Standings:
    """Where the patients in the images folder stand now; ids are those of cohorts."""

    own: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Patient → person, of those who are this hospital's."""
    asked: frozenset[str] = field(default_factory=frozenset, repr=False)
    """Of whom the answer is known; who has no identifier is nobody's, unasked."""


class KnownPersons:
    """The sealed file. Args: persons: hash of the persons file that it is about."""

    def __init__(self, node: Node, identity: Identity, persons: bytes) -> None:
        bound = join(FORMAT.encode(), persons)
        self._file = SealedFile(node.known_persons, identity.secret_for("persons-known"), bound)
        self._key = identity.secret_for("persons-names").reveal()
        self._entries: dict[str, tuple[str, str]] = {}
        content = self._file.read()
        if content is not None:
            self._entries = {patient: (mark, who) for patient, (mark, who) in json.loads(content).items()}

    def knows(self, patient: str, form: bytes) -> bool:
        """Whether the keepers have answered about this patient under this identifier."""
        return patient in self._entries and self._entries[patient][0] == self._name("identifier", form)

    def person(self, patient: str) -> str:
        """Who this patient is to this hospital; empty if the person is not this hospital's."""
        return self._entries[patient][1]

    def add(self, patient: str, form: bytes, tag: bytes, *, own: bool) -> None:
        """Note an answer; :meth:`save` keeps it."""
        who = self._name("person", tag) if own else ""
        self._entries[patient] = self._name("identifier", form), who

    def save(self) -> None:
        """On stable storage on return. Raises: OSError."""
        self._file.write(json.dumps(self._entries, sort_keys=True).encode())

    def _name(self, use: str, value: bytes) -> str:
        return hmac.digest(self._key, join(use.encode(), value), "sha256").hex()[:32]


def standings(node: Node, identity: Identity) -> Standings:
    """Where the patients of the images folder stand; nobody is anybody's where no persons file is used.

    Raises: BadFile.
    """
    told = node.settings.persons
    if told is None:
        return Standings()
    people = read_people(node.settings.data, told)
    known, names = KnownPersons(node, identity, bytes.fromhex(told.hash)), Names(identity)
    return standings_of(people, known, names)


def standings_of(people: People, known: KnownPersons, names: Names) -> Standings:
    """As :func:`standings`, of people who were read already."""
    answered = {names.patient(p): f for p, f in people.forms.items()}
    answered = {patient: form for patient, form in answered.items() if known.knows(patient, form)}
    own = {patient: known.person(patient) for patient in answered if known.person(patient)}
    nobodys = {names.patient(p) for p in people.unknown | people.several}
    return Standings(own, frozenset(answered) | nobodys)
