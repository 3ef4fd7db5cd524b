"""MONAI without what it only looks for: plots, tables, trackers and trainers that a node never uses.

``import monai`` loads every optional library that it finds on the machine (mlflow, pandas, matplotlib, more:
100 MB and four seconds on a machine for development). It does without each of them by itself, so where a node
loads it they are out of sight for that moment.
"""

from __future__ import annotations

import importlib
import sys
import threading

OUT_OF_SIGHT = (
    "IPython",
    "ignite",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "pynvml",
    "skimage",
    "tensorboard",
    "tensorboardX",
    "transformers",
)
_ONE = threading.Lock()


def import_monai() -> None:
    """Load MONAI for a process that trains and evaluates only; nothing if it is loaded already."""
    with _ONE:
        if "monai" in sys.modules:
            return
        hidden = [name for name in OUT_OF_SIGHT if name not in sys.modules]
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "not to be found"
        try:
            importlib.import_module("monai")
        finally:
            for name in hidden:
                sys.modules.pop(name, None)
