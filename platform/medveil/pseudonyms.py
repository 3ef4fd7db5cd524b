"""One patient, one spelling: pseudonyms as people, spreadsheets and exports write them, brought to one form.

Everything that counts patients (the reader of a site, splits, ledger) counts what :func:`one_spelling`
returns. Where it takes two people for one, the privacy promise holds all the same: the two share what one
may take. Taking one person for two would break it; what may be that, :func:`look_alike` shows to people.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from medveil.errors import Error

MAX_LENGTH = 4096
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Shown as nothing, though Unicode calls them letters, marks or symbols."""
_MINUS = frozenset("\u02d7\u2043\u2212")
"""Dashes that Unicode does not call dashes."""
_DAMAGED = re.compile(r"-?[0-9]+(?:[.,][0-9]+)?e\+[0-9]+|-?[0-9]+[.,][0-9]+e-?[0-9]+")
_ERROR = re.compile(r"#+|#[^\W\d_]{2,8}[/]?[0a]?[!?]|#div/0!|#n/?[adv]")
"""What a spreadsheet shows where it has no value or no room: ``#NAME?``, ``#N/A``, ``########``."""
_MISSING = frozenset({"nan", "<na>", "n/a", "na", "nat", "null", "none"})
"""What programs write where a table has no value."""
_MONTH = (
    r"(?:jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sept?|o[ck]t|nov|de[cz]|janv|févr|avr|juin|juil|août|déc"
    r"|ene|abr|ago|dic|gen|mag|giu|lug|set|ott)"
)
_DATE = re.compile(
    rf"[0-9]{{1,2}}[-. ]{{1,2}}{_MONTH}\.?(?:[- ](?:[0-9]{{2}}|(?:19|20)[0-9]{{2}}))?"
    rf"|{_MONTH}[-. ]{{1,2}}(?:[0-9]{{2}}|(?:19|20)[0-9]{{2}})"
    r"|(?:19|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9](?: [0-9:.]+)?"
    r"|[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:19|20)[0-9]{2}(?: [0-9:.]+)?"
    r"|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
)
_CUT = re.compile(r"[0-9]{15}0+")
"""A number of which a spreadsheet has kept its fifteen digits."""
_LONG = re.compile(r"[0-9]{16,}")
_WHOLE = re.compile(r"([0-9]+)(?:[.,]0{1,2})?")
_LATIN = str.maketrans("аеорсухкмтвніјѕԁһԛԝαορντικχυ", "aeopcyxkmtbhijsdhqwaopvtikxy")
"""Cyrillic and Greek letters that look like Latin ones."""
_DIGITS = str.maketrans("oil|", "0111")


class BadPseudonym(Error):
    """A text that can name no patient."""

    code = "bad-pseudonym"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"A patient's pseudonym {reason}.",
            meaning="Which patient is meant cannot be known, so what stands under it is not used.",
            remedy="Format the column as text before it is filled, and export it again.",
        )
        self.reason = reason


def one_spelling(text: str) -> str:
    """The form under which a patient is counted, whoever wrote the pseudonym down.

    These are one patient: upper and lower case; composed and decomposed, full-width and ordinary characters,
    digits of any script; any spaces (many count as one, beside a dash and at the ends as none); any dashes;
    with and without characters that nothing shows of; and what spreadsheets make of a number: ``7``, ``007``,
    ``7.0``, ``'7``, ``="7"``.

    Guarantees: the form of a form is that form.
    Raises: BadPseudonym if nothing is left, it is longer than 4,096 characters, or several patients may be
        behind it, and one that is elsewhere written in full: a number that a spreadsheet has rounded
        (``1.23457E+11``), what it shows instead of a value (``#NAME?``, ``####``), or what programs write
        without one (``NaN``, ``None``).
    """
    if len(text) > MAX_LENGTH:
        raise BadPseudonym(reason="is too long")
    before, form = "", text
    while form != before:  # folding may uncover what is to be folded; each turn shortens or ends
        before, form = form, _folded(form)
    if not form:
        raise BadPseudonym(reason="is empty")
    if _DAMAGED.fullmatch(form):
        raise BadPseudonym(reason="is a number that a spreadsheet has rounded")
    if _ERROR.fullmatch(form):
        raise BadPseudonym(reason="is what a spreadsheet shows instead of a value")
    if form in _MISSING or not any(map(str.isalnum, form)):
        raise BadPseudonym(reason="says that there is none")
    return form


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    form = re.sub(r" ?- ?", "-", " ".join("".join(map(_shown, plain)).split()))
    quoted = re.fullmatch(r'="(.*)"', form)
    form = quoted[1].strip() if quoted else form.removeprefix("'").strip()
    number = _WHOLE.fullmatch(form)
    return (number[1].lstrip("0") or "0") if number else form


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    kind = unicodedata.category(character)
    if kind == "Pd" or character in _MINUS:
        return "-"
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    selects = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    invisible = kind in ("Cf", "Cc") or character in _INVISIBLE or selects
    return "" if invisible else character


def look_alike(form: str) -> str:
    """What forms of :func:`one_spelling` have in common that may be one patient, which only people can tell.

    Alike are: ``p1``, ``p01``, ``p-1``, ``p_1`` and ``p 1``; letters with and without accents; Cyrillic,
    Greek and Latin letters of one shape; O and 0, I, l and 1. ``1-11``, ``11-1`` and ``111`` are not.
    """
    bare = "".join(c for c in unicodedata.normalize("NFD", form) if unicodedata.category(c) != "Mn")
    parts = re.findall(r"[^\W\d_]+|\d+", bare.translate(_LATIN).translate(_DIGITS))
    return " ".join(part.lstrip("0") or "0" if part.isdigit() else part for part in parts) or form


def doubtful(forms: Iterable[str]) -> dict[str, str]:
    """Forms of :func:`one_spelling` that several patients may have become, and what they look like.

    A date is what spreadsheets make of ``1-3`` or ``MARCH1``. Numbers of more than fifteen digits are told of
    if they have two zeros or more from the sixteenth on, or if all of them have one: by itself that is rare.
    """
    known = list(forms)
    long = [form for form in known if _LONG.fullmatch(form)]
    rounded = [form for form in long if _CUT.fullmatch(form)]
    cut = rounded if rounded == long else [form for form in rounded if form.endswith("00")]
    dates = [form for form in known if _DATE.fullmatch(form)]
    return dict.fromkeys(cut, "a number that a spreadsheet has rounded") | dict.fromkeys(dates, "a date")
