"""Each patient keeps the split of the first private study, for life.

A patient pays for what is released about the own split and for nothing else. That is true only as long as
nobody is tested today and trained on tomorrow; the manifest is the hospital's to change, so the node minds.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hospital_node.files import replace_durably
from medveil.errors import Error
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.manifest import SiteData
from privacy.dp.policy import Split


class SplitsDamaged(Error):
    """The file that says which patient is in which split cannot be read."""

    code = "splits-damaged"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The file '{name}', which remembers each patient's split, cannot be used.",
            meaning="Without it a patient could pay twice and be counted once; nothing private is computed.",
            remedy="Restore it from a backup of the node's folder.",
        )


class Splits:
    """A file of keyed hashes of pseudonyms, beside the ledger; pseudonyms themselves are not in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(
        self, site: SiteData, *, dataset: str, splits: Iterable[Split], note: bool = True
    ) -> tuple[SiteData, int]:
        """The site without the patients of ``splits`` whom an earlier study met in another split, and how
        many those are.

        Args:
            note: whether the others' split is noted; then it is on stable storage when this returns.

        Raises: SplitsDamaged.
        """
        book = self._read()
        known: dict[str, str] = book["datasets"].setdefault(dataset, {})
        before, moved = dict(known), 0
        left = {Split.TRAIN: site.train, Split.VAL: site.val, Split.TEST: site.test}
        for split in splits:
            stays = [self._stays(book, known, patient, split) for patient in left[split]]
            left[split] = tuple(itertools.compress(left[split], stays))
            moved += stays.count(False)
        if note and known != before:
            replace_durably(self._path, json.dumps(book).encode())
        train, val, test = left[Split.TRAIN], left[Split.VAL], left[Split.TEST]
        return replace(site, train=train, val=val, test=test), moved

    def _stays(
        self, book: dict[str, Any], known: dict[str, str], patient: PatientImages, split: Split
    ) -> bool:
        """Whether the patient was met in no other split. Earlier versions noted the spelling as it was."""
        name = self._name(book, patient.patient)
        names = {name, *(self._name(book, written) for written in patient.spellings)}
        met = {known[n] for n in names if n in known}
        known.setdefault(name, min(met, default=split.value))
        return met <= {split.value}

    def _name(self, book: dict[str, Any], pseudonym: str) -> str:
        return hmac.new(bytes.fromhex(book["key"]), pseudonym.encode(), hashlib.sha256).hexdigest()[:32]

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads(self._path.read_bytes())
            if not (len(bytes.fromhex(book["key"])) == 32 and isinstance(book["datasets"], dict)):
                raise ValueError("not a file of splits")
            return dict(book)
        except FileNotFoundError:
            return {"key": secrets.token_hex(32), "datasets": {}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SplitsDamaged(name=self._path.name) from error
