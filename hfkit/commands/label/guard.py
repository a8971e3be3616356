"""Rejects requests that are too large, malformed, or sent by the pages of other sites."""

import ipaddress
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse

from hfkit.commands.web.body import BodyError, read_json_object

MAX_BODY = 1 << 20
BODY_SECONDS = 30.0
CLOSE_CONNECTION = {"Connection": "close"}
"""Of an answer to a body that was not read to its end: the rest is not read either."""
LOCAL_NAMES = ("localhost",)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guard(names: Collection[str]) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return a middleware that rejects foreign hosts and origins, and adds `HEADERS`.

    Args:
        names: by which browsers may reach the page, in addition to IP addresses and `LOCAL_NAMES`.
    """
    known = {name.lower() for name in (*LOCAL_NAMES, *names)}

    async def checked(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        fault = host_fault(request, known) or (origin_fault(request) if request.method == "POST" else None)
        response = JSONResponse({"error": fault}, 403) if fault else await call_next(request)
        response.headers.update(HEADERS)
        return response

    return checked


def host_fault(request: Request, names: set[str]) -> str | None:
    """Return why a request's Host header is rejected, or None.

    With a foreign name, the browser believes that the page belongs to another site (DNS rebinding). An address cannot
    be rebound.
    """
    with suppress(ValueError):
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if name in names or ipaddress.ip_address(name):
            return None
    return "this name does not lead to this page: start hfkit label with --allowed_hosts NAME"


def origin_fault(request: Request) -> str | None:
    """Return why a POST is rejected, or None: another site's page may have sent it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "the content type must be application/json"
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    is_own = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return None if is_own and site in ("same-origin", "none") else "sent by another site"


async def read_body(request: Request) -> dict:
    """Return the JSON object of a request."""
    try:
        return await read_json_object(request, MAX_BODY, BODY_SECONDS)
    except BodyError as error:
        raise HTTPException(error.status, str(error), CLOSE_CONNECTION if error.is_unread else None) from error
