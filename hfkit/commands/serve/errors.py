"""Errors of a request, with the status and the JSON that OpenAI's clients expect."""

from http import HTTPStatus

from hfkit.core.console import clean

CODES = {401: "invalid_api_key", 503: "server_busy"}
"""The code of an error by its status, if it has no other."""


class ApiError(Exception):
    """An error that the client gets as JSON.

    Args:
        status: of the HTTP response.
        message: what is wrong, and what to send.
        param: the field of the request that is wrong.
        code: a word for programs, such as `model_not_found`.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or CODES.get(status)

    def content(self) -> dict:
        """Return the JSON of the error."""
        kind = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        return {"error": {"message": clean(str(self)), "type": kind, "param": self.param, "code": self.code}}
