"""The way in for the day on which no provider answers: name, password and code."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from aggregator.access.breakglass import WrongPassword
from aggregator.errors import NotFound, Overloaded, TooManyRequests
from aggregator.storage.register import Role
from aggregator.storage.sessions import UsedUp
from aggregator.ways_in import BREAK_GLASS
from aggregator.web.entrance.guard import form_of, way_back
from aggregator.web.entrance.hall import Hall, page
from aggregator.web.guesses import MARK_COOKIE, MARK_S
from aggregator.web.standby import serving_of

AGAIN = (WrongPassword, UsedUp, TooManyRequests, Overloaded)
"""What is answered by the form once more."""


def local_router(hall: Hall) -> APIRouter:
    """Its two routes."""
    router = APIRouter(include_in_schema=False)

    async def form(request: Request) -> Response:
        if not await serving_of(request).visitors.has_local_admins():
            raise NotFound()
        return hall.show(request, "local.html.j2")

    async def typed(request: Request) -> Response:
        visitors = serving_of(request).visitors
        visitors.check_origin(request)
        told = await form_of(request)
        name, back = told.get("name", "").strip(), way_back(told.get("back", "/"))
        try:
            step = await visitors.guesses.take(
                await visitors.local_admin(name),
                told.get("password", ""),
                told.get("code", ""),
                mark=request.cookies.get(MARK_COOKIE, ""),
                address=request.client.host if request.client else "",
            )
            cookie, _ = await visitors.begin(
                request, name=name, role=Role.ADMIN.value, shown=name, way=BREAK_GLASS, code=(name, step)
            )
        except AGAIN as error:
            return hall.refuse(request, error, "local.html.j2", back=back)
        answer = hall.welcome(cookie, back)
        answer.set_cookie(
            MARK_COOKIE,
            visitors.guesses.new_mark(),
            max_age=MARK_S,
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return answer

    router.add_api_route("/signin/local", page(hall, form), methods=["GET"])
    router.add_api_route("/signin/local", page(hall, typed), methods=["POST"])
    return router
