"""A named collection that a folder of modules fills: one file per entry."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from medveil.errors import UnknownName

T = TypeVar("T")


def names_in(package: str) -> tuple[str, ...]:
    """What a folder registers, without importing any of it: an entry is called as its file is."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders or ())))


class Registry(Generic[T]):
    """Entries of one kind. One is looked for in the module of its name, then in every module of ``package``.

    Raises:
        UnknownName: on look-up of a name that no module registered.
    """

    def __init__(self, kind: str, package: str) -> None:
        self._kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under ``name``."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"two {self._kind} entries are called '{name}'")
            self._entries[name] = entry
            return entry

        return keep

    def __getitem__(self, name: str) -> T:
        if name not in self._entries and name in names_in(self._package):
            importlib.import_module(f"{self._package}.{name}")  # without the libraries of the others
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            raise UnknownName(kind=self._kind, name=name, known=tuple(self))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._loaded = True
