"""Reads the body of a request, with limits of its size and of the time that it may take."""

import asyncio

from starlette.requests import Request

from hfkit.core.errors import reason
from hfkit.core.limits import load_json


class BodyError(Exception):
    """A body that is too large, too slow, or no JSON object.

    Args:
        status: of the HTTP response.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, code: str):
        super().__init__(message)
        self.status, self.code = status, code

    @property
    def is_unread(self) -> bool:
        """Whether the body was not read to its end, so that the connection cannot be used again."""
        return self.status in (408, 413)


async def read_json_object(request: Request, most_bytes: int, seconds: float) -> dict:
    """Return the JSON object of a request.

    Raises:
        BodyError: there is none within these limits.
    """

    async def read() -> bytes:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > most_bytes:
                raise BodyError(413, f"the request has more than {most_bytes:,} bytes", "request_too_large")
        return bytes(content)

    try:
        given = load_json((await asyncio.wait_for(read(), seconds)).decode())
    except asyncio.TimeoutError as error:
        raise BodyError(408, f"the request was not complete after {seconds:g} s", "timeout") from error
    except ValueError as error:
        raise BodyError(400, f"the body is not JSON: {reason(error)}", "invalid_json") from error
    if not isinstance(given, dict):
        raise BodyError(400, "the body must be a JSON object", "invalid_json")
    return given
