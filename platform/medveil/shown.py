"""The one door to a person's eyes: every text passes here before a terminal, a log or a page.

Names, descriptions and errors come from files and machines of others. A terminal obeys escape sequences, rich
obeys square brackets, and a line break begins a line that looks like ours. So a text is only ever shown as
printable characters in one piece, and nothing in it is obeyed. Style is asked for with :func:`strong` and the
like, never written into a text. No other module may print, or import what prints; a test reads the source.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from medveil.errors import Error
from medveil.progress import Look, Pace, listening

__all__ = [
    "LINE",
    "MARK",
    "NotConfirmed",
    "Screen",
    "Words",
    "can_ask",
    "faint",
    "fault",
    "good",
    "is_plain",
    "plain",
    "strong",
    "warn",
]

LINE = 300
"""Most characters of a text from outside, unless its place says otherwise."""
LONG_S = 2.0
"""Nobody is told how far a shorter piece of work is."""
BORDERS = 3
"""What a column of a table takes beside its cells."""
LONGEST = 4000
"""Most characters of a line, whatever it is made of."""
MARK = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character that is not shown."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
"""Letters and marks that look like nothing: fillers of Hangul, the empty Braille pattern, joiners."""
_BETWEEN_WORDS = re.compile(r"[\s\u2e80-\uffff]+")
_MARKS_IN_A_ROW = 4
"""Accents on one letter; more of them would paint over the lines above and below."""

Words = str | Text
"""What may be shown: a text, or one with a style of :func:`strong` and its like."""


def plain(text: object, limit: int = LINE) -> str:
    """One line of printable characters, white space as single spaces, an ellipsis where it was too long.

    Guarantees: at most ``limit`` characters; none is a control or formatting character, a line break, a
        surrogate, unassigned or private (categories Cc, Cf, Cs, Co, Cn, Zl, Zp), or looks like nothing.
    """
    whole = text if isinstance(text, str) else str(text)
    line = _printable(" ".join(whole[: 8 * limit].split()))
    if len(line) <= limit and len(whole) <= 8 * limit:
        return line
    return line[: limit - 1] + "…"


def is_plain(text: str, *, lines: bool = False) -> bool:
    """Whether every character of a text can be shown; with ``lines`` it may have line breaks and tabs."""
    line = text.replace("\n", " ").replace("\t", " ") if lines else text
    return _printable(line).count(MARK) == text.count(MARK)


def _printable(line: str) -> str:
    shown, marks = [], 0
    for character in line:
        if character.isascii() and character.isprintable():
            marks = 0
            shown.append(character)
            continue
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in _HIDDEN or character in _BLANK or _selects(character) or marks > _MARKS_IN_A_ROW:
            shown.append(MARK)
        else:
            shown.append(" " if category == "Zs" else character)
    return "".join(shown)


def _selects(character: str) -> bool:
    """Variation selectors: they look like nothing, and any number of them may follow one another."""
    return (
        "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or ("\u180b" <= character <= "\u180f")
    )


def strong(text: object) -> Text:
    """The same text in bold."""
    return Text(plain(text), "bold")


def faint(text: object) -> Text:
    """The same text, pale."""
    return Text(plain(text), "dim")


def good(text: object) -> Text:
    """The same text as good news."""
    return Text(plain(text), "bold green")


def warn(text: object) -> Text:
    """The same text as something to think about."""
    return Text(plain(text), "bold yellow")


def fault(text: object) -> Text:
    """The same text as a fault or refusal."""
    return Text(plain(text), "bold red")


def _text(words: Words) -> Text:
    """What may be printed: of a string every character but spaces is held against :func:`plain`."""
    return words if isinstance(words, Text) else Text(_cut(words))


def _cut(line: str) -> str:
    return _printable(line if len(line) <= LONGEST else line[: LONGEST - 1] + "…")


def _longest_word(cell: Text) -> int:
    """How wide its longest piece is that is not to be cut; between Chinese characters one may always cut."""
    return max(cell_len(word) for word in _BETWEEN_WORDS.split(cell.plain))


def _widths(least: Sequence[int], wanted: Sequence[int], room: int) -> Sequence[int]:
    """Of columns: what they want, or as much of it as there is room for."""
    lacking, spare = sum(wanted) - sum(least), room - sum(least)
    if lacking <= spare:
        return wanted
    return [less + (more - less) * spare // lacking for less, more in zip(least, wanted, strict=True)]


def _lines(words: Words, most: int = 60) -> Text:
    """Several lines, where a place allows them: each for itself."""
    if isinstance(words, Text):
        return words
    parts = words.split("\n")
    left = [] if len(parts) <= most else ["…"]
    return Text("\n".join(_cut(part) for part in [*parts[:most], *left]))


class Screen:
    """A terminal, or the file that stands for one."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        self._console = Console(highlight=False, soft_wrap=True, stderr=stderr, quiet=quiet)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it."""
        return self._console.is_terminal

    @property
    def width(self) -> int:
        """How many characters a line has room for."""
        return self._console.width

    def say(self, *parts: Words) -> None:
        """One line; its parts stand side by side."""
        self._console.print(Text(" ").join(_text(part) for part in parts))

    def fields(self, rows: Iterable[tuple[Words, Words]], *, width: int = 8, indent: int = 0) -> None:
        """A label and a text in each row. A long text goes on under itself, never under a label."""
        if not self._console.is_terminal and not indent:
            for label, words in rows:
                body = _lines(words)
                body = Text("\n" + " " * (width + 1)).join(body.split("\n"))
                self._console.print(Text.assemble(_padded(label, width), " ", body))
            return
        table = Table.grid(padding=(0, 1, 0, 0))
        if indent:
            table.add_column(width=indent - 1)
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for label, words in rows:
            table.add_row(*([Text()] if indent else []), _text(label), _lines(words))
        self._console.print(table, soft_wrap=False)

    def table(
        self,
        heads: Sequence[str],
        rows: Iterable[Sequence[Words]],
        *,
        title: str = "",
        right: Sequence[int] = (),
    ) -> None:
        """A table; ``right`` are the columns that hold numbers.

        Guarantees: no word is cut in two. Where the screen is too narrow for that, each row is a few lines.
        """
        names, cells = [_text(head) for head in heads], [[_text(cell) for cell in row] for row in rows]
        columns = list(zip(names, *cells, strict=True))
        least = [max(map(_longest_word, column)) for column in columns]
        wanted = [max(cell_len(cell.plain) for cell in column) for column in columns]
        room = self.width - BORDERS * len(names) - 1
        if sum(least) > room:
            self._rows_as_lines(title, names, cells)
            return
        table = Table(title=_text(title) if title else None, title_justify="left")
        for place, (name, width) in enumerate(zip(names, _widths(least, wanted, room), strict=True)):
            justify: Literal["left", "right"] = "right" if place in right else "left"
            table.add_column(name, justify=justify, overflow="fold", width=width)
        for row in cells:
            table.add_row(*row)
        self._console.print(table, soft_wrap=False)

    def _rows_as_lines(self, title: str, names: Sequence[Text], cells: Sequence[Sequence[Text]]) -> None:
        if title:
            self.say(title)
        for first, *others in cells:
            told = [
                Text.assemble(faint(name), " ", cell)
                for name, cell in zip(names[1:], others, strict=True)
                if cell.plain.strip()
            ]
            self._console.print(Text.assemble(first, style="bold"))
            self._console.print(Padding(Text(", ").join(told), (0, 0, 0, 2), expand=False), soft_wrap=False)

    def json(self, value: Any) -> None:
        """A value for a program, as one line of ASCII."""
        self._console.print(Text(json.dumps(value)))

    def answer(self, question: str) -> str:
        """What the person at the terminal types, without blanks at its ends; empty if nothing can be read."""
        self._console.print(Text.assemble(_text(question), " "), end="")
        try:
            return sys.stdin.readline(LINE).strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def ask(self, question: str) -> bool:
        """Whether the person at the terminal says yes; anything else is no."""
        self._console.print(Text.assemble(_text(question), " [yes/no] "), end="")
        try:
            return sys.stdin.readline().strip().lower() in ("y", "yes")
        except (OSError, UnicodeDecodeError):
            return False

    @contextmanager
    def live(self) -> Iterator[_Live]:
        """Rows that are drawn anew in place; nothing where no person looks."""
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            yield _Live(live)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What runs inside and tells how far it is (:mod:`medveil.progress`) is seen by whoever waits.

        At a terminal in place; elsewhere a line for each part that has taken long, when it is done.
        """
        if not self.is_terminal:
            with listening(Pace(self._last_look, every_s=LONG_S)):
                yield
            return
        with self.live() as live, listening(Pace(_in_place(live), every_s=0.25)):
            yield

    def _last_look(self, look: Look) -> None:
        if look.now.done == look.now.total:
            self.say(f"{look.now.part}: {_pace(look)}")


def _in_place(live: _Live) -> Callable[[Look], None]:
    return lambda look: live.show([(look.now.part, _pace(look))])


def _pace(look: Look) -> str:
    rate = f"{look.rate:,.0f}" if look.rate >= 10 else f"{look.rate:.2g}"
    if look.now.done == look.now.total:
        return f"{look.now.total:,} in {_duration(look.seconds)}, {rate} a second"
    return f"{look.now.done:,} of {look.now.total:,}, {rate} a second, {_duration(look.left_s)} left"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Live:
    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, rows: Iterable[tuple[str, str]]) -> None:
        """The rows as they are now."""
        table = Table.grid(padding=(0, 2))
        for label, words in rows:
            table.add_row(strong(label), Text(plain(words)))
        self._live.update(table)


def _padded(label: Words, width: int) -> Text:
    text = _text(label).copy()
    text.pad_right(max(0, width - text.cell_len))
    return text


class NotConfirmed(Error):
    """Something needs a person's yes."""

    code = "not-confirmed"

    def __init__(self) -> None:
        super().__init__(
            what="What was shown was not confirmed.",
            meaning="Nothing was signed, changed or restored.",
            remedy="Answer 'yes' at the terminal; a script that has compared everything adds --yes.",
        )


def can_ask() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()
