"""The short way of a round's requests to their routes: the same routes, found and read at one go.

The web framework looks for a route three times, one candidate after the other, and takes each value of an
address apart by itself: a third of what a small request takes. Here one pattern and one pydantic model, made
of the route's own signature, do both. Whatever does not fit them goes the framework's way, which refuses it
or finds another route, so addresses, checks, refusals and the OpenAPI document are the framework's alone.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, ValidationError, create_model
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import Receive, Scope, Send

VALUES = "medveil.values"
"""Key of the ASGI scope under which a request's values lie between the two steps."""


class Shortcut(BaseRoute):
    """One route without dependencies, to be looked at before all others.

    Args:
        only: a part of the address → the values for which this is the way; by default all that fit.
    """

    def __init__(self, route: APIRoute, **only: frozenset[str]) -> None:
        self.path_format = route.path_format
        self._route, self._only, self._methods = route, only, frozenset(route.methods or ())
        self._pattern, _, convertors = compile_path(route.path)
        if any(one.regex != "[^/]+" for one in convertors.values()):
            raise ValueError("a part of the address is more than plain text")
        self._values = _model_of(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See starlette: whether this is the way, and what is known of the request by then."""
        if scope["type"] != "http" or scope["method"] not in self._methods or scope.get("root_path"):
            return Match.NONE, {}
        found = self._pattern.match(scope["path"])
        if found is None:
            return Match.NONE, {}
        parts = found.groupdict()
        if any(parts[name] not in values for name, values in self._only.items()):
            return Match.NONE, {}
        told = dict(Request(scope).query_params) if scope["query_string"] else {}
        try:
            values = self._values.model_validate(told | parts).__dict__
        except ValidationError:
            return Match.NONE, {}
        child = {"endpoint": self._route.endpoint, "path_params": parts, "route": self._route}
        return Match.FULL, child | {VALUES: values}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the route's function; what it raises is answered further out, as ever."""
        response = await self._route.endpoint(Request(scope, receive, send), **scope.pop(VALUES))
        await response(scope, receive, send)


def shortcuts_to(router: APIRouter, function: object, **only: frozenset[str]) -> list[Shortcut]:
    """To every route of a function."""
    routes = (one for one in router.routes if isinstance(one, APIRoute) and one.endpoint is function)
    return [Shortcut(one, **only) for one in routes]


def _model_of(route: APIRoute) -> type[BaseModel]:
    """What a route's function takes beside the request."""
    taken = inspect.signature(route.endpoint, eval_str=True).parameters
    fields = {
        name: (one.annotation, ... if one.default is one.empty else one.default)
        for name, one in taken.items()
        if one.annotation is not Request
    }
    return cast("type[BaseModel]", create_model("Values", **cast("dict[str, Any]", fields)))
