"""torch's optimisers without torch's compiler, which nobody here uses.

torch guards what an optimiser does against being compiled, and each guard loads the compiler to say so: about
70 MiB and a second of a core for a process that compiles nothing. Beneath the guards are the same functions.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """The same optimiser without the guards.

    Guarantees: the same bits, and hooks around its steps as everywhere. Where torch has no guards, or others,
    it is what torch makes of it.
    """
    bare = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")}
    return type(kind.__name__, (kind,), bare | {"step": torch.no_grad()(bare["step"])})
