"""Knows who has logged in: a random token in a cookie, whose hash is in a file, so that sessions survive a restart."""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import unicodedata
from collections import Counter
from pathlib import Path
from weakref import WeakValueDictionary

from starlette.exceptions import HTTPException

from hfkit.core.files import read_json_mapping, replace_file

LABELER_NAME = re.compile(r"\w(?:[\w .'@-]{0,38}[\w.])?")
"""Names of labelers: 1 to 40 letters, digits and a few signs; the names of judges have others."""
MAX_NAME = 40
WRONG_PASSWORD_SECONDS = 1.0
MOST_ATTEMPTS = 8
"""Attempts of an address that may wait; more would use up the connections of the page."""
MAX_SESSIONS = 10_000


def labeler_name(given: object) -> str | None:
    """Return the name of a labeler in Unicode's composed form, in which equal names are equal; None if it is none.

    Marks are allowed after a letter, since scripts such as Devanagari and Thai write vowels with them.
    """
    if not isinstance(given, str):
        return None
    name = unicodedata.normalize("NFC", given)
    letters = "".join(one for one in name if not unicodedata.category(one).startswith("M"))
    is_valid = len(name) <= MAX_NAME and name[:1] == letters[:1] and LABELER_NAME.fullmatch(letters)
    return name if is_valid else None


class Sessions:
    """The sessions of a page.

    Args:
        path: of the file, which only its owner can read.
        password: of the page; None: there is none. A new password ends all sessions.
    """

    def __init__(self, path: Path, password: str | None):
        self.path, self.password = path, password
        saved = read_json_mapping(path) or {}
        self._names = {key: name for key, name in saved.items() if isinstance(name, str)}
        self._attempts: Counter[str] = Counter()  # by address
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def _key(self, token: str) -> str:
        return hmac.new((self.password or "").encode(), token.encode(), hashlib.sha256).hexdigest()

    async def is_allowed(self, password: object, address: str) -> bool:
        """Return whether a password is right, one attempt of an address at a time; a wrong one takes a second.

        Raises:
            HTTPException: too many attempts of the address are waiting.
        """
        if self.password is None:
            return True
        if self._attempts[address] >= MOST_ATTEMPTS:
            raise HTTPException(429, "too many attempts: wait some seconds")
        self._attempts[address] += 1
        try:
            async with self._locks.setdefault(address, asyncio.Lock()):  # it lives while an attempt has or awaits it
                given = password.encode() if isinstance(password, str) else b""
                is_right = hmac.compare_digest(given, self.password.encode())
                if not is_right:
                    await asyncio.sleep(WRONG_PASSWORD_SECONDS)
        finally:
            self._attempts -= Counter([address])
        return is_right

    def start(self, labeler: str) -> str:
        """Save a new session and return its token."""
        token = secrets.token_urlsafe(32)
        names = {**self._names, self._key(token): labeler}
        self._names = dict([*names.items()][-MAX_SESSIONS:])
        with replace_file(self.path) as unfinished:
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(self._names), encoding="utf-8")
        return token

    def labeler(self, token: str | None) -> str | None:
        """Return who has a token, or None."""
        return self._names.get(self._key(token)) if token else None
