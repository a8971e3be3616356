"""Reads the body of a request, with limits of its size and of the time that it may take."""

import asyncio
import json

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hfkit.core.errors import reason
from hfkit.core.limits import load_json


class BodyError(HTTPException):
    """A body that is too large, too slow, or no JSON object.

    If it was not read to its end, the connection closes: its next bytes are not those of a request.

    Args:
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, code: str):
        super().__init__(status, message, {"Connection": "close"} if status in (408, 413) else None)
        self.code = code


def is_json(headers: Headers) -> bool:
    """Return whether the content type is JSON; a form of another site cannot send it."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


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
        text = (await asyncio.wait_for(read(), seconds)).decode()
        given = load_json(text)
        if r"\ud" in text.lower():
            json.dumps(given, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except asyncio.TimeoutError as error:
        raise BodyError(408, f"the request was not complete after {seconds:g} s", "timeout") from error
    except ValueError as error:
        raise BodyError(400, f"the body is not JSON: {reason(error)}", "invalid_json") from error
    if not isinstance(given, dict):
        raise BodyError(400, "the body must be a JSON object", "invalid_json")
    return given
