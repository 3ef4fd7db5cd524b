"""How what comes from the PACS loses its identities: PS3.15's Basic Profile, under this hospital's key."""

from __future__ import annotations

from hospital_node.pacs.fetching import Clean
from hospital_node.pacs.keyed import KeyedNames
from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.pseudonyms import Pseudonyms


def cleaner(names: KeyedNames) -> Clean:
    """The function by which every instance is cleaned before it is written anywhere."""
    pseudonyms = Pseudonyms(names.key_of("de-identification").reveal())

    def clean(data: bytes) -> tuple[bytes, tuple[str, ...]]:
        content, done = deidentified_file(data, pseudonyms)
        return content, done.codes

    return clean
