"""How what comes from the PACS loses its identities: PS3.15's Basic Profile, under this hospital's key."""

from __future__ import annotations

from hospital_node.pacs.fetching import Clean
from hospital_node.pacs.keyed import KeyedNames
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.series import SeriesCleaner


def cleaner(names: KeyedNames) -> Clean:
    """The function by which every instance is cleaned before it is written anywhere."""
    return SeriesCleaner(Pseudonyms(names.key_of("de-identification").reveal())).clean
