"""Rejects requests that are too large, malformed, or sent by the pages of other sites."""

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from hfkit.commands.web.body import is_json, read_json_object
from hfkit.commands.web.hosts import host_of, is_address

read_body = partial(read_json_object, most_bytes=1 << 20, seconds=30.0)
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

    With a foreign name, the browser believes that the page belongs to another site (DNS rebinding).
    """
    host = host_of(request.headers.get("host", ""))
    if host in names or is_address(host):
        return None
    return "this name does not lead to this page: start hfkit label with --allowed_hosts NAME"


def origin_fault(request: Request) -> str | None:
    """Return why a POST is rejected, or None: another site's page may have sent it."""
    if not is_json(request.headers):
        return "the content type must be application/json"
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    is_own = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return None if is_own and site in ("same-origin", "none") else "sent by another site"
