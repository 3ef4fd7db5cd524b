"""The fictional identities of the pack ``dicom-files/phi``, looked for in any bytes and in whatever coding.

What a node writes or sends must hold none of them. A name is looked for whole and by its parts, in small and
capital letters, in the codings that DICOM files, databases, logs and web requests use.
"""

from __future__ import annotations

import base64
import gzip
import unicodedata
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

NAMES = (
    "Quillfeather^Ottoline",
    "Mbeki-Lindqvist^Tove",
    "Zzyzx^Leopold",
    "Ravensbourne^Cyril",
    "Øxenholm^Pål",
    "Brackwater^Ives",
    "Umber^Jo",
    "Farthing^Ada",
    "Hale^Rue",
)
NUMBERS = ("MRN-7718204", "MRN-4456012", "MRN-3141592", "ACC-55100", "ACC-55102", "ACC-55103", "ACC-55104")
DATES = ("19520314", "19470101", "19660630", "19990229")
UIDS = (
    "34161979557213139557825191630661895044",
    "75635193383992974920178459166544654326",
    "50524107911847845801012654481796769757",
    "11788842088941569409651181504346866118",
    "45114992117765422678006654761307174154",
)
"""The telling ends of the files' study UIDs."""
SHORTEST = 6
"""Letters of a part of a name that is looked for by itself: shorter ones are parts of common words."""
CODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "gb18030", "cp437")


@cache
def canaries() -> tuple[str, ...]:
    """All strings that are looked for."""
    found = [*NUMBERS, *DATES, *UIDS]
    for name in NAMES:
        family, given = name.split("^")
        found += [name, f"{given} {family}", f"{family}, {given}", f"{family} {given}", f"{given}.{family}"]
        found += [part for part in (family, given, *family.split("-")) if len(part) >= SHORTEST]
    return tuple(dict.fromkeys(found))


@cache
def _needles() -> dict[bytes, str]:
    needles = {}
    for canary in canaries():
        forms = {unicodedata.normalize(form, canary) for form in ("NFC", "NFD")}
        plain = unicodedata.normalize("NFD", canary).encode("ascii", "ignore").decode()
        if len(plain) == len(canary):
            forms.add(plain)
        for form in {cased for one in forms for cased in (one, one.lower(), one.upper())}:
            for coding in CODINGS:
                try:
                    raw = form.encode(coding)
                except UnicodeEncodeError:
                    continue
                needles[raw.lower()] = canary
                if coding in ("utf-8", "latin-1"):
                    needles[raw.hex().encode()] = canary
    return _shortest(needles)


def _shortest(needles: dict[bytes, str]) -> dict[bytes, str]:
    """Without those that hold another one: where they are, that one is."""
    kept: dict[bytes, str] = {}
    for needle in sorted(needles, key=len):
        if not any(one in needle for one in kept):
            kept[needle] = needles[needle]
    return kept


@cache
def _in_base64() -> dict[bytes, str]:
    """As base64 shows them, at each of three places; the letters at the ends hang on what is beside."""
    needles = {}
    for canary in canaries():
        for raw in {form.encode() for form in (canary, canary.lower(), canary.upper())}:
            for before in range(3):
                shown = base64.b64encode(bytes(before) + raw)
                whole = shown[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
                if len(whole) >= 6:
                    needles[whole] = canary
    return _shortest(needles)


def found_in(data: bytes) -> set[str]:
    """Canaries that bytes hold, also under gzip or zlib: of several that overlap the shortest."""
    small = data.lower()
    found = {canary for needle, canary in _needles().items() if needle in small}
    found |= {canary for needle, canary in _in_base64().items() if needle in data}
    inside = _unpacked(data)
    return found | (found_in(inside) if inside else set())


def found_under(folder: Path) -> dict[str, set[str]]:
    """The canaries in all files of a folder, hidden ones too, and in their names: path → canaries."""
    found: dict[str, set[str]] = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        here = found_in(name.encode("utf-8", "surrogateescape"))
        if path.is_file() and not path.is_symlink():
            here |= found_in(path.read_bytes())
        if here:
            found[name] = here
    return found


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.rglob("*"))


def _unpacked(data: bytes) -> bytes:
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:1] == b"\x78":
            return zlib.decompress(data)
    except (OSError, EOFError, zlib.error):
        pass
    return b""
