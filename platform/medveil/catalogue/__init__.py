"""Texts of pages in English and Chinese: one key, two texts.

Each page has its texts here (``operator``: a hospital's own page), and ``common`` has what all pages say.
A template asks for a text by its key, and for nothing else that a person could read; a test holds every
template against that. What others have written (a study's name, its author's words, an error's sentences) is
no text of ours and stands as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
NAMES: dict[Language, str] = {"en": "English", "zh": "中文"}
"""Each language's own name for itself."""
TAGS: dict[Language, str] = {"en": "en", "zh": "zh-CN"}


@dataclass(frozen=True)
class Text:
    """What one key says. Values stand in braces: ``{count}``."""

    en: str
    zh: str
    one: str = ""
    """The English text where ``count`` is 1, if it is another."""

    def say(self, language: Language, **values: object) -> str:
        """The text with its values. Raises: KeyError if one is missing."""
        text = self.zh if language == "zh" else self.en
        if language == "en" and self.one and values.get("count") == 1:
            text = self.one
        shown = {name: f"{v:,}" if isinstance(v, int) else v for name, v in values.items()}
        return text.format_map(shown)


Texts = Mapping[str, Text]


class Speaker:
    """Says texts in one language. It is a function of the key: ``t("leaves.title")``."""

    def __init__(self, texts: Texts, language: Language) -> None:
        self._texts, self.language = texts, language

    def __call__(self, key: str, /, **values: object) -> str:
        """Raises: KeyError if there is no such key, or a value of it is missing."""
        return self._texts[key].say(self.language, **values)

    @property
    def tag(self) -> str:
        """What a page's ``lang`` says."""
        return TAGS[self.language]

    def knows(self, key: str) -> bool:
        """Whether there is such a key."""
        return key in self._texts

    def bytes(self, count: float) -> str:
        """A size: 1 kB is 1000 bytes."""
        for unit in ("B", "kB", "MB", "GB", "TB"):
            if count < 1000 or unit == "TB":
                return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
            count /= 1000
        raise AssertionError("unreachable")

    def duration(self, seconds: float) -> str:
        """How long something takes, in one unit."""
        for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if seconds >= 2 * size or (unit == "minutes" and seconds >= 60):
                return self(f"time.{unit}", count=round(seconds / size))
        return self("time.seconds", count=round(seconds))


def language_of(accepted: str, chosen: str = "") -> Language:
    """The language of ours that a browser's ``Accept-Language`` likes most; English if it names none.

    Args:
        chosen: what the person has chosen, which counts if it is a language of ours.
    Source: RFC 9110, section 12.5.4.
    """
    for language in LANGUAGES:
        if chosen == language:
            return language
    found: list[tuple[float, int, Language]] = []
    for place, part in enumerate(accepted[:500].split(",")):
        name, _, options = part.strip().lower().partition(";")
        main = name.split("-")[0]
        for language in LANGUAGES:
            if main == language:
                found.append((-_weight(options), place, language))
    best = min(found, default=(0.0, 0, LANGUAGES[0]))
    return best[2] if best[0] < 0 else LANGUAGES[0]


def _weight(options: str) -> float:
    name, _, value = options.replace(" ", "").partition("=")
    if name != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0
