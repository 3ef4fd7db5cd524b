"""The base error: what happened, what it means, what to do, and a stable code."""

from __future__ import annotations

import datetime as dt


class Error(Exception):
    """A problem a person can act on.

    Subclasses set ``code``, which never changes once released: documents, alarms and the wire refer to it.
    The three sentences must not name a patient, a file's contents, a key or any unmasked number.
    """

    code = "error"

    def __init__(self, *, what: str, meaning: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.meaning = meaning
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.meaning} {self.remedy} [{self.code}]"


class BadFile(Error):
    """A file that people write (study, settings) does not say what it must."""

    code = "bad-file"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"{name} cannot be used: {problem}.",
            meaning="Nothing was changed.",
            remedy="Correct the file and run the command again.",
        )


class BadOption(Error):
    """An option of a command does not say what it must."""

    code = "bad-option"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"An option cannot be used: {problem}.",
            meaning="Nothing was changed.",
            remedy="Correct it and run the command again; '--help' says what it takes.",
        )


class SystemRefused(Error):
    """The operating system did not do what a command asked of it, and nothing nearer knew what that means."""

    code = "system-refused"

    def __init__(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        super().__init__(
            what=f"The operating system refused a file or an address: {reason}.",
            meaning="The command ended before its work was done.",
            remedy="Check that its folders are there, belong to this user and have room, and run it again.",
        )


class NotInstalled(Error):
    """A command needs a library that this installation was made without."""

    code = "not-installed"

    def __init__(self, name: str) -> None:
        super().__init__(
            what=f"The library '{name}' is not installed here.",
            meaning="This is an installation for something else (an aggregator, for example, has no torch), "
            "so the command ended where it needed it.",
            remedy='Install the part that the command is of: pip install "medveil[node]" for a node, '
            '"medveil[research]" for the research commands and the demo.',
        )


class UnknownName(Error):
    """A registry was asked for an entry it does not hold."""

    code = "unknown-name"

    def __init__(self, *, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            what=f"There is no {kind} called '{name}'.",
            meaning="A study may only name what this version of MedVeil ships.",
            remedy=f"Choose one of: {', '.join(known)}.",
        )


class RemoteProtocolError(Error):
    """The other side broke the protocol; our own state is unchanged."""

    code = "remote-protocol"


class LocalProtocolError(Error):
    """Our own side asked for something the protocol forbids."""

    code = "local-protocol"


def utc(seconds: float | None = None) -> str:
    """Unix seconds (the present if None) as a person reads them."""
    moment = dt.datetime.now(dt.UTC) if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
