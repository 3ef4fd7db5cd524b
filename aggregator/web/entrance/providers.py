"""The way in by an OpenID provider: to it, and back from it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aggregator.access.oidc.errors import NoRole
from aggregator.access.oidc.flow import COOKIE, TAKES_S, Flow, opened
from aggregator.errors import NotFound
from aggregator.ways_in import Provider, Rule
from aggregator.web.entrance.guard import guarded, way_back
from aggregator.web.entrance.hall import Hall, page
from aggregator.web.standby import serving_of
from aggregator.web.visitors import Visitors
from medveil.errors import Error
from medveil.shown import plain

LONGEST_NAME = 60
_NAME = re.compile(r"[\x21-\x2e\x30-\x7e]{1,60}")


def providers_router(hall: Hall) -> APIRouter:
    """Its two routes."""
    router, lines = APIRouter(include_in_schema=False), hall.lines

    async def go(request: Request) -> Response:
        line = lines.get(request.path_params["provider"])
        if line is None:
            raise NotFound()
        visitors = serving_of(request).visitors
        back = way_back(request.query_params.get("back", "/"))
        flow = Flow(line.provider.name, back, visitors.clock() + TAKES_S)
        answer = RedirectResponse(await line.question(flow), 303)
        answer.set_cookie(
            COOKIE,
            flow.sealed(visitors.flow_key),
            max_age=int(TAKES_S),
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return guarded(answer)

    async def back(request: Request) -> Response:
        line = lines.get(request.path_params["provider"])
        if line is None:
            raise NotFound()
        visitors, told = serving_of(request).visitors, dict(request.query_params)
        try:
            flow = opened(request.cookies.get(COOKIE, ""), visitors.flow_key)
            flow.check(provider=line.provider.name, state=told.get("state", ""), now=visitors.clock())
            claims = await line.answer(flow, told)
            rule = await _rule(hall, claims, line.provider, visitors)
            cookie, _ = await visitors.begin(
                request,
                name=_name(claims, line.provider, rule),
                role=rule.role,
                shown=_shown(claims, line.provider),
                way=line.provider.name,
            )
        except Error as error:
            refused = hall.refuse(request, error)
            refused.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")  # used up
            return refused
        return hall.welcome(cookie, flow.back)

    router.add_api_route("/signin/with/{provider}", page(hall, go), methods=["GET"])
    router.add_api_route("/signin/back/{provider}", page(hall, back), methods=["GET"])
    return router


async def _rule(hall: Hall, claims: Mapping[str, Any], provider: Provider, visitors: Visitors) -> Rule:
    """The rule by which somebody comes in, as the settings have it now. Raises: NoRole."""
    rule = await asyncio.to_thread(hall.rules.rule_for, provider, claims)
    if rule is None or (rule.name and not await visitors.is_researcher(rule.name)):
        raise NoRole()
    return rule


def _name(claims: Mapping[str, Any], provider: Provider, rule: Rule) -> str:
    """What the log calls somebody. Raises: NoRole."""
    if rule.name:
        return rule.name
    told = claims.get(provider.person)
    if not isinstance(told, str) or not told:
        raise NoRole()
    if not _NAME.fullmatch(told):
        told = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return f"{provider.name}/{told}"


def _shown(claims: Mapping[str, Any], provider: Provider) -> str:
    for claim in ("name", "preferred_username", "email", provider.person):
        told = claims.get(claim)
        if isinstance(told, str) and told.strip():
            return plain(told.strip(), LONGEST_NAME)
    return provider.title
