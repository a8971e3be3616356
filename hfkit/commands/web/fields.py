"""Validates the fields of a request with pydantic."""

import reprlib
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class JsonFields(BaseModel):
    """Fields of a JSON object, without conversions: "1" is no number. Others are ignored; null is the default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


Given = TypeVar("Given", bound=JsonFields)


def read_fields(kind: type[Given], given: dict, fault: Callable[[str, str], Exception]) -> Given:
    """Return the fields of a JSON object.

    Args:
        fault: returns the exception to raise for an invalid field, from its name and a message.
    """
    try:
        return kind.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        raise fault(name, f"{name}: {reprlib.repr(given.get(name))} -> {message}") from error
