"""Who is in a study: the patients of a plan, frozen when its operator approves it.

A cohort is a file of keyed hashes: of each patient's pseudonym, images and labels, with the split. The key is
derived from this node's identity, so no copy of the file alone tells who is in it. Its name is its own hash;
the ledger's rows name it, which binds it into their chain. A private plan runs on exactly this cohort until
the operator takes another one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from medveil.errors import Error
from medveil.files import replace_durably
from medveil.identity import Identity
from medveil.ids import join
from medveil.progress import tell
from medveil.pseudonyms import look_alike, one_spelling
from medveil.stopping import check_stopped
from medveil.study import Study
from medveil_imaging.sources.contents import content_digest
from medveil_imaging.sources.manifest import Row, usable_rows
from privacy.dp.accounts import Account
from privacy.dp.policy import Split

FORMAT = "medveil cohort 1"
PREFIX = "cohort:"
"""What the name of a cohort begins with in the ledger."""
Before = Callable[[str], Mapping[str, Split]]
"""Of a pseudonym as it was written: data set → split."""


class CohortChanged(Error):
    """The images folder is not what was frozen."""

    code = "cohort-changed"

    def __init__(self, *, changes: Changes) -> None:
        super().__init__(
            what=f"The images folder is no longer the cohort that was approved: {changes}.",
            meaning="Each patient's price was computed for that cohort; nothing private runs on another one.",
            remedy="'medveil node check' shows where. Put it right, or take it: medveil node cohort --take.",
        )
        self.changes = changes


class CohortMissing(Error):
    """A private plan was approved and no cohort with it."""

    code = "cohort-missing"

    def __init__(self) -> None:
        super().__init__(
            what="No cohort of patients was frozen for this plan; it was approved with an earlier version.",
            meaning="It is not known which patients it may use, so nothing private is computed for it.",
            remedy="Look at the folder and take it: medveil node cohort --take.",
        )


class CohortDamaged(Error):
    """A file of a cohort is gone or altered."""

    code = "cohort-damaged"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The file of a cohort, '{name}', is gone or not what was written.",
            meaning="Who has paid for what can no longer be known, so nothing private is computed.",
            remedy="Restore it from a backup of the node's folder, or see 'medveil node ledger go-on'.",
        )


@dataclass(frozen=True)
class Held:
    """One patient of a cohort."""

    split: Split
    images: tuple[tuple[str, str], ...] = field(repr=False)
    """Keyed hashes of each image, and of the image with its label; in order."""
    account: str = field(default="", repr=False)
    """What the patient pays from. Patients whose pseudonyms look alike share one, and so do a patient who is
    gone and another one who brings that patient's image."""
    before: tuple[tuple[str, Split], ...] = ()
    """By data set: the splits that earlier versions of this program noted."""
    person: str = field(default="", repr=False)
    """Who the patient is, if every keeper has said that the person is this hospital's; else empty."""

    def to_list(self) -> list[object]:
        """As a cohort's file has it: without a person as before there were persons."""
        person = [self.person] if self.person else []
        return [self.split, self.images, self.account, dict(self.before), *person]


@dataclass(frozen=True)
class Changes:
    """How a folder differs from a cohort: ids of patients. Only the counts may be told."""

    joined: frozenset[str] = field(repr=False)
    gone: frozenset[str] = field(repr=False)
    split: frozenset[str] = field(repr=False)
    images: frozenset[str] = field(repr=False)
    labels: frozenset[str] = field(repr=False)

    def __bool__(self) -> bool:
        return any(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Kind of change → patients that it is about."""
        return {
            "joined": len(self.joined),
            "gone": len(self.gone),
            "in another split": len(self.split),
            "with other images": len(self.images),
            "with other labels": len(self.labels),
        }

    def __str__(self) -> str:
        told = [f"{count} patient(s) {kind}" for kind, count in self.counts.items() if count]
        return ", ".join(told) or "nothing has changed"


@dataclass(frozen=True)
class Cohort:
    """The patients of a plan by keyed id.

    Args:
        dataset: the hospital's name for the set; earlier versions kept budgets under it.
    """

    dataset: str
    patients: Mapping[str, Held] = field(repr=False)

    def to_bytes(self) -> bytes:
        """One spelling for one cohort."""
        patients = {name: held.to_list() for name, held in self.patients.items()}
        content = {"format": FORMAT, "dataset": self.dataset, "patients": patients}
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Cohort:
        """The cohort that was written. Raises: ValueError, KeyError, TypeError, if it is none."""
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError("another format")
        return cls(content["dataset"], {n: _held(*value) for n, value in content["patients"].items()})

    @cached_property
    def name(self) -> str:
        """What the ledger calls it: its own hash."""
        return PREFIX + hashlib.sha256(self.to_bytes()).hexdigest()

    def count(self, split: Split) -> int:
        """How many patients a split holds."""
        return sum(held.split is split for held in self.patients.values())

    @property
    def share(self) -> dict[str, Account]:
        """Account → rows of the ledger that it pays for because of this cohort."""
        paid: dict[str, Account] = defaultdict(frozenset)
        for held in self.patients.values():
            paid[held.account] |= self._share(held)
        return dict(paid)

    def _share(self, held: Held) -> Account:
        known = dict(held.before)
        own = {(self.name, held.split), (self.dataset, known.get(self.dataset, held.split))}
        return frozenset(own | set(known.items()))

    def only(self, keep: Callable[[str, Held], bool]) -> Cohort:
        """Without the patients that are not kept."""
        return replace(self, patients={n: held for n, held in self.patients.items() if keep(n, held)})

    def changes(self, now: Mapping[str, Held]) -> Changes:
        """What is different in a folder."""
        both = [(n, held, now[n]) for n, held in self.patients.items() if n in now]
        alike = {n: [i for i, _ in old.images] == [i for i, _ in new.images] for n, old, new in both}
        return Changes(
            joined=frozenset(now.keys() - self.patients.keys()),
            gone=frozenset(self.patients.keys() - now.keys()),
            split=frozenset(n for n, old, new in both if old.split is not new.split),
            images=frozenset(n for n, same in alike.items() if not same),
            labels=frozenset(n for n, old, new in both if alike[n] and old.images != new.images),
        )


def _held(
    split: str, images: list[list[str]], account: str, before: dict[str, str], person: str = ""
) -> Held:
    pairs = tuple((str(image), str(label)) for image, label in images)
    noted = tuple((d, Split(s)) for d, s in before.items())
    return Held(Split(split), pairs, str(account), noted, str(person))


class Names:
    """Keyed hashes that only this node can make: of pseudonyms, and of images and labels."""

    def __init__(self, identity: Identity) -> None:
        self._patient = identity.secret_for("cohort-patient").reveal()
        self._image = identity.secret_for("cohort-image").reveal()

    def patient(self, pseudonym: str) -> str:
        """One patient's id, whoever wrote the pseudonym down, in every study of this node.

        Raises: BadPseudonym.
        """
        return self._keyed("patient", one_spelling(pseudonym))

    def account(self, pseudonym: str) -> str:
        """What is common to all pseudonyms that look alike. Raises: BadPseudonym."""
        return self._keyed("account", look_alike(one_spelling(pseudonym)))

    def _keyed(self, use: str, form: str) -> str:
        return hmac.digest(self._patient, f"{use} {form}".encode(), "sha256").hex()[:32]

    def content(self, *parts: bytes) -> str:
        """Of an image, or of an image and its label."""
        return hmac.digest(self._image, join(*parts), "sha256").hex()[:32]


@dataclass(frozen=True)
class Reading:
    """What a folder holds now, and the lines that say so: for the operator's screen only."""

    patients: Mapping[str, Held] = field(repr=False)
    rows: Mapping[str, tuple[tuple[str, str, Row], ...]] = field(repr=False)
    """Patient → hash of the image, of image and label, and the line."""


def read_patients(folder: Path, study: Study, names: Names) -> Reading:
    """Hash every file that a study would read, and hold it by patient. Nothing is decoded.

    Files that cannot be read are left out, as the reader of images leaves them out.
    Raises: Stopped between two files.
    """
    rows: dict[str, list[tuple[str, str, Row]]] = defaultdict(list)
    usable = usable_rows(folder, study)
    for done, row in enumerate(usable, start=1):
        check_stopped()
        tell("files compared", done, len(usable))
        try:
            image = _digest_of_all(row.paths)
            label = str(row.label).encode() if row.label_map is None else content_digest(row.label_map)
        except OSError:
            continue
        hashes = names.content(image), names.content(image, label)
        rows[names.patient(row.patient)].append((*hashes, row))
    found = {}
    for patient, lines in rows.items():
        splits = {row.split for _, _, row in lines}
        if len(splits) == 1:
            images = tuple(sorted((image, label) for image, label, _ in lines))
            account = names.account(lines[0][2].patient)
            found[patient] = Held(Split(splits.pop()), images, account)
    return Reading(found, {n: tuple(lines) for n, lines in rows.items()})


class ImagesFolder:
    """The images folder as one command sees it: read once, so that what is taken is what was shown."""

    def __init__(self) -> None:
        self._read: dict[tuple[object, ...], Reading] = {}

    def reading(self, study: Study, read: Callable[[Study], Reading]) -> Reading:
        """What it holds for a study; labels and channels alone decide which lines of the manifest count."""
        labels = (study.task, study.classes, study.target, study.transforms.channels)
        if labels not in self._read:
            self._read[labels] = read(study)
        return self._read[labels]


def freeze(
    reading: Reading,
    dataset: str,
    *,
    known: Iterable[Cohort],
    before: Before | None = None,
    persons: Mapping[str, str] | None = None,
) -> Cohort:
    """The cohort of a folder as it is now.

    Args:
        known: every cohort of this node. Somebody new whose image was that of somebody who is gone is taken
            for the same patient under another pseudonym.
        before: what an earlier version noted about patients, by pseudonym.
        persons: patient → person, of those whom the keepers have given to this hospital. A person is one
            patient here, and pays from one account whatever the pseudonym: of whom this does not hold, no
            person is noted.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    accounts: dict[str, str] = {}
    of_person: dict[str, set[str]] = defaultdict(set)
    for cohort in known:
        for name, held in cohort.patients.items():
            accounts[name] = held.account
            if held.person:
                of_person[held.person].add(held.account)
            for image, _ in held.images:
                owners[image].add(name)
    patients = {}
    here = Counter(who for name, who in (persons or {}).items() if name in reading.patients)
    for name, held in reading.patients.items():
        who = (persons or {}).get(name, "")
        paying = of_person[who] if who else set()
        lone = {o for image, _ in held.images if len(owners[image]) == 1 for o in owners[image]}
        gone = sorted(lone - reading.patients.keys())
        account = accounts.get(name) or next(iter(sorted(paying)), "")
        account = account or (accounts[gone[0]] if gone else held.account)
        if here[who] > 1 or paying - {account}:
            who = ""
        noted: dict[str, Split] = {}
        for pseudonym in {row.written for _, _, row in reading.rows[name]} if before else ():
            noted |= before(pseudonym) if before else {}
        before_ = tuple(sorted(noted.items()))
        patients[name] = replace(held, account=account, before=before_, person=who)
    return Cohort(dataset, patients)


class Cohorts:
    """The folder of cohorts, each file under its own hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, cohort: Cohort) -> None:
        """Write it, readable by the owner only, on stable storage on return."""
        path = self._path(cohort.name)
        if not path.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(path, cohort.to_bytes(), private=True)

    def load(self, name: str) -> Cohort:
        """Raises: CohortDamaged if it is gone or is not what its name says."""
        path = self._path(name)
        try:
            cohort = Cohort.from_bytes(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CohortDamaged(name=path.name) from error
        if cohort.name != name:
            raise CohortDamaged(name=path.name)
        return cohort

    def all(self) -> list[Cohort]:
        """Every one that is there and whole; of those that the ledger names it has asked for itself."""
        found = []
        for name in sorted(path.stem for path in self.folder.glob("*.json")):
            with suppress(CohortDamaged):
                found.append(self.load(PREFIX + name))
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.removeprefix(PREFIX)}.json"


def is_cohort(name: str) -> bool:
    """Whether a row of the ledger names a cohort, not a data set."""
    return name.startswith(PREFIX) and len(name) == len(PREFIX) + 64


def _digest_of_all(paths: tuple[Path, ...]) -> bytes:
    """Of an image that is one file as of that file, so that cohorts of earlier versions hold."""
    if len(paths) == 1:
        return content_digest(paths[0])
    return hashlib.sha256(b"".join(content_digest(path) for path in paths)).digest()
