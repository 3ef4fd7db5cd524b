"""A command with many options takes one frozen dataclass: each field is an option, as typer would read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

Options = TypeVar("Options")


def from_options(function: Callable[[Options], None]) -> Callable[..., None]:
    """What typer registers for a function of one dataclass: ``app.command()(from_options(init))``.

    Args:
        function: its one parameter is annotated with the dataclass, whose fields are options or arguments:
            ``name: Annotated[str, typer.Option(help=…)] = "…"``. A repeatable one is a list with
            ``field(default_factory=list)``. Both are imported where they are written, not for types only.
    Returns: a function with a parameter for each field, in their order; it has the name and docstring of the
        given one, which can still be called with a value.
    """
    parameters = get_type_hints(function)
    parameters.pop("return", None)
    (kind,) = parameters.values()
    hints = get_type_hints(kind, include_extras=True)

    def run(**given: Any) -> None:
        function(kind(**given))

    run.__name__, run.__qualname__ = function.__name__, function.__qualname__
    run.__module__, run.__doc__ = function.__module__, function.__doc__
    taken = [field for field in fields(kind) if field.init]
    own = kind.__annotations__  # what must be said first, then what is this command's own
    taken.sort(key=lambda field: (_default(field) is not Parameter.empty, field.name not in own))
    run.__annotations__ = {field.name: hints[field.name] for field in taken}
    run.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=_default(f), annotation=hints[f.name])
            for f in taken
        ]
    )
    return run


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default
