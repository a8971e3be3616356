"""Rejects requests before they reach a route: other hosts, other origins, no key."""

import os
import re
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.web.body import is_json
from hfkit.commands.web.hosts import host_of, is_this_machine
from hfkit.commands.web.secret_file import read_secret
from hfkit.core.errors import HfkitError

KEY_VARIABLE = "HFKIT_API_KEY"
KEY = re.compile(r"[!-~]{16,512}")


def read_api_key(path: str | None) -> str | None:
    """Return the key in a file that only its owner can read, else that of `HFKIT_API_KEY`; None without one.

    Raises:
        HfkitError: the file is missing, others can read it, or it has no key.
    """
    where, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE)
    if path is not None:
        where = f"--api_key_file {path}"
        try:
            key = read_secret(path)
        except HfkitError as error:
            raise HfkitError(f"{where}: {error}") from error
    if key is not None and not KEY.fullmatch(key):
        raise HfkitError(f"{where}: expected 16 to 512 visible ASCII characters, such as: openssl rand -hex 32")
    return key


class Guard:
    """Checks the headers of each request.

    Without a key, only a request to this machine's own names is answered: a page in a browser can make another name
    point to it (DNS rebinding). Pages of other origins are refused, unless they are allowed.

    Args:
        key: that requests must have; None: no key.
        origins: of pages whose scripts may send requests.
    """

    def __init__(self, app: ASGIApp, key: str | None, origins: list[str]):
        self.app, self.key, self.origins = app, key, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass the request on."""
        if scope["type"] != "http":
            return
        error = self.fault(scope, Headers(scope=scope))
        if error is None:
            await self.app(scope, receive, send)
        else:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            await JSONResponse(error.content(), error.status, headers)(scope, receive, send)

    def fault(self, scope: Scope, headers: Headers) -> ApiError | None:
        """Return what is wrong with a request's headers, or None."""
        if self.key is None and not is_this_machine(host_of(headers.get("host", ""))):
            return ApiError(403, "the Host header must be localhost or 127.0.0.1", code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and "*" not in self.origins:
            return ApiError(403, f"the origin {origin!r} is not allowed: see --allow_origin", code="origin_not_allowed")
        if self.key is not None and scope["path"] != "/health" and not self.has_key(headers):
            return ApiError(401, "the API key is missing or wrong: send it as `Authorization: Bearer KEY`")
        if scope["method"] == "POST" and not is_json(headers):
            return ApiError(415, "expected the Content-Type application/json", code="unsupported_media_type")
        return None

    def has_key(self, headers: Headers) -> bool:
        """Return whether a request has the key; it takes the same time whatever it has."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and compare_digest(given.strip().encode(), (self.key or "").encode())
