"""The rules of sign-in services as the settings' file has them now: a change counts from the next sign-in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from aggregator.settings import Settings, load
from aggregator.ways_in import Provider, Rule
from medveil.errors import Error
from medveil.log import get_logger

FILE = "aggregator.json"
log = get_logger()


class RulesNow:
    """Who comes in as what.

    Only rules are read again: another provider, secret or address needs a restart. While the file cannot be
    read, or says what it may not, the rules that were read last hold, and the log says so.
    """

    def __init__(self, settings: Settings) -> None:
        self._path, self._folder = settings.folder / FILE, settings.folder
        self._known = {one.name: one.rules for one in settings.sign_in.providers}
        self._seen = self._state()

    def rule_for(self, provider: Provider, claims: Mapping[str, Any]) -> Rule | None:
        """The rule by which this person comes in; None: not at all. It may read a file."""
        state = self._state()
        if state is not None and state != self._seen:
            self._read()
            self._seen = state
        rules = self._known.get(provider.name, ())
        return next((rule for rule in rules if rule.fits(claims)), None)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            told = os.stat(self._path)
        except OSError:
            return None
        return told.st_mtime_ns, told.st_size, told.st_ino

    def _read(self) -> None:
        try:
            self._known = {one.name: one.rules for one in load(self._folder).sign_in.providers}
        except Error as error:
            log.error("sign-in.rules-unread", code=error.code)
        else:
            log.info("sign-in.rules-read")
