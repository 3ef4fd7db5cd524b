"""Large libraries without what they only look for: plots, tables, trackers, other accountants.

``import monai`` loads every optional library that it finds on the machine (mlflow, pandas, matplotlib, more:
100 MB and four seconds on a machine for development), and SciPy's solvers for transforms that no study has.
It does without each of them by itself, so where a command of ours loads it they are out of sight meanwhile.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OUT_OF_SIGHT = (
    "IPython",
    "ignite",
    "jsonschema",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "pynvml",
    "requests",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "skimage",
    "tensorboard",
    "tensorboardX",
    "transformers",
)
_ONE = threading.RLock()


def import_monai() -> None:
    """Load MONAI for a process that trains and evaluates only; nothing if it is loaded already."""
    with _ONE:
        if "monai" not in sys.modules:
            expect_monai()
            importlib.import_module("monai")


def expect_monai() -> None:
    """For a command of ours: whichever module of this process imports MONAI first gets it so."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "monai":
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = _Loader(found.loader)
        return found


class _Loader(Loader):
    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        hidden = [name for name in OUT_OF_SIGHT if name not in sys.modules]
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "not to be found"
        try:
            self._own.exec_module(module)
        finally:
            for name in hidden:
                sys.modules.pop(name, None)


def import_alone(name: str, *, named_only: Mapping[str, str] | None = None) -> ModuleType:
    """A module without what its packages load beside it.

    Args:
        named_only: module → the class of it that this one names in annotations and has no other use for.
            Where it is not loaded yet, an empty class stands for it there.
    Guarantees: who imports the packages later gets the whole of them, and in it this same module.
    """
    with _ONE:
        steps = name.split(".")[:-1]
        packages = [".".join(steps[: i + 1]) for i in range(len(steps))]
        bare = [package for package in packages if package not in sys.modules]
        named = {module: one for module, one in (named_only or {}).items() if module not in sys.modules}
        try:
            for module, one in named.items():
                sys.modules[module] = stand_in = ModuleType(module)
                setattr(stand_in, one, type(one, (), {}))
            for package in bare:
                spec = importlib.util.find_spec(package)
                if spec is None:
                    raise ModuleNotFoundError(f"No module named {package!r}", name=package)
                sys.modules[package] = empty = ModuleType(package)
                empty.__path__, empty.__spec__ = list(spec.submodule_search_locations or ()), spec
            return importlib.import_module(name)
        finally:
            for package in (*bare, *named):
                sys.modules.pop(package, None)


@contextmanager
def loading() -> Iterator[None]:
    """What is loaded meanwhile is never looked through for garbage, which would take a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
