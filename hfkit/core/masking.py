"""Masks tokens, keys and passwords in everything that is printed or stored."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import quote

MASK = "***"
# The start of a word, also after a JSON escape such as \n, whose letter would otherwise count as the word's first.
START = r"(?:\b|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4}))"
TOKEN_FORMS = {
    "hf_": r"(?:oauth_|jwt_)?(?=[a-z]*[A-Z0-9]|[a-z]{30})[A-Za-z0-9]{16,}",  # Hugging Face
    "api_org_": r"[A-Za-z0-9]{30,}",  # of a Hugging Face organization
    "sk-": r"(?![a-z]+-[a-z]+(?:-|\b)|\d+-\d)[A-Za-z0-9_-]{20,}",  # OpenAI and others; not sk-learn-classifier
    "gh[pousr]_": r"[A-Za-z0-9]{36}",
    "github_pat_": r"[A-Za-z0-9_]{22,}",
    "glpat-": r"[A-Za-z0-9_-]{20,}",
    "A(?:KI|SI)A": r"[0-9A-Z]{16}\b",  # AWS
    "xox[abeoprs]-": r"[A-Za-z0-9-]{10,}",  # Slack
    "AIza": r"[A-Za-z0-9_-]{35}",  # Google
    "npm_": r"[A-Za-z0-9]{36}",
    "pypi-": r"[A-Za-z0-9_-]{50,}",
}
"""Prefix of each kind of token -> pattern of the rest."""
KEY_BLOCK = r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
END_BLOCK = KEY_BLOCK.replace("BEGIN", "END")

# `hub_token` and `WANDB_API_KEY` are secrets; `max_new_tokens`, `tokenizer` and `pad_token` are not
SECRET_NAMES = re.compile(
    r"(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!stop_)(?<!image_)(?<!think_)(?<![a-z])"
    r"(token|password|passwd|secrets?|(api|access|secret|private)?keys?)(?![a-z])",
    re.I,
)
TYPICAL_NAMES = ("token", "hub_token", "hf_token", "api_key", "wandb_api_key", "access_token", "password", "secret")
ENDING = r"(?i:token|password|passwd|secret|key)"
VALUE = r"""(?:\\*"[^"\n]{0,4096}"|\\*'[^'\n]{0,4096}'|[^\s"',;)}\]]+)"""
SIGN = r"""\\*["']?\s?[=:]\s?(?:[|>][+-]?\s{1,64})?"""
"""What separates a name from its value, in code, JSON within JSON, and blocks of YAML."""
SECRET_FORMS = {
    "block": rf"(?P<block>{KEY_BLOCK})(?!\*)(?:(?:(?!-----)[\s\S])*{END_BLOCK}|[\w+/=\s\\]*)",
    "token": f"{START}(?:{'|'.join(f'(?:(?P<t{n}>{a})(?:{b}))' for n, (a, b) in enumerate(TOKEN_FORMS.items()))})",
    "jwt": rf"{START}(?P<jwt>eyJ)[\w-]{{10,}}\.eyJ[\w-]{{10,}}(?:\.[\w-]*)?",
    "url": r"(?P<url>(?<=://)[^\s/:@\"']{0,200}:)[^\s/@\"']{1,400}@",
    "user": r"(?P<user>(?<=://))(?=[^\s/:@\"']{0,200}\d)[^\s/:@\"']{16,400}@",  # https://TOKEN@host
    "signed": r"(?P<signed>[?&](?:[A-Za-z-]{0,64}[Ss]ignature|sig)=)[^\s&\"']+",  # a URL that works without login
    "basic": r"(?P<basic>[Aa]uthorization\\?[\"']?\s?[:=]\s?\\?[\"']?(?:Basic|Bearer|[Tt]oken)\s)[\w.~+/=-]{4,}",
    "bearer": r"(?P<bearer>\b[Bb]earer\s)(?=\S{0,200}?\d)[\w.~+/=-]{8,}",
    "flag": rf"(?P<flag>--[\w.-]{{0,64}}{ENDING}\s)(?!-){VALUE}",
    "named": rf"(?P<name>(?<![\w.-])[\w.-]{{0,64}}{ENDING})(?P<sign>{SIGN})(?P<value>{VALUE})",
}
SENSITIVE = re.compile("|".join(SECRET_FORMS.values()))
SECRETS = re.compile(f"{SECRET_FORMS['token']}|{KEY_BLOCK}")
"""Tokens and keys that are recognized by their form."""
HINT = re.compile("|".join([*TOKEN_FORMS, "eyJ", "://", r"[?&]\w", "uthorization", "earer", "PRIVATE", ENDING]))
"""A quick test: a text that does not match it contains no secret and is not searched further."""
NOT_SECRET = {"", "none", "null", "true", "false", "missing", MASK}


def mask_secrets(text: str) -> str:
    """Replace tokens, keys and passwords with `***`, found by their form, their names, or `own_secrets`."""
    for secret in own_secrets():
        text = text.replace(secret, MASK)
    return SENSITIVE.sub(_masked_match, text) if HINT.search(text) else text


def own_secrets() -> Iterator[str]:
    """Yield the secrets in the environment, found by name: values of at least 12 characters with a digit, not paths.

    Each comes verbatim and as escaped in JSON, Python and URLs.
    """
    for name in filter(is_secret_name, os.environ):
        value = os.environ.get(name, "")
        if len(value) >= 12 and any(map(str.isdigit, value)) and not _is_path(value):
            yield from {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="", errors="replace")}


def _is_path(value: str) -> bool:
    """Return whether the value of a variable such as `SSH_KEY` names a file."""
    return "/" in value and (value[0] in "/~." or os.path.exists(value))


def is_special_token(value: str) -> bool:
    """Return whether a value is a special token, such as `<start_of_image>`, which is not secret."""
    return re.fullmatch(r"</?[^<>\s]{1,40}>", value) is not None


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Return whether a key or variable of this name holds a secret."""
    return SECRET_NAMES.search(name) is not None


def masked(key: str, value: object) -> object:
    """Replace secrets in `value` with `***`, found by their form, by `key`, or by keys within the value."""
    if is_secret_name(key) and not (isinstance(value, str) and is_special_token(value)):
        return MASK
    if isinstance(value, Mapping):
        return {name: masked(str(name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [masked("", item) for item in value]
    return mask_secrets(value) if isinstance(value, str) else value


def without_secrets(content):
    """Return a record, or a part of it, with masked texts; numbers are never secret, whatever their key: `tokens`."""
    if isinstance(content, Mapping):
        return {
            name: masked(str(name), item) if isinstance(item, str) and item else without_secrets(item)
            for name, item in content.items()
        }
    if isinstance(content, (list, tuple)):
        return [without_secrets(item) for item in content]
    return mask_secrets(content) if isinstance(content, str) else content


def resembles_secret(key: str) -> bool:
    """Return whether a key probably misspells that of a secret, such as `hub_tokne`; `tokens` does not."""
    name = key.rpartition(".")[2].strip("-").lower()
    return not name.endswith("s") and bool(get_close_matches(name, TYPICAL_NAMES, n=1, cutoff=0.8))


def _masked_match(match: re.Match) -> str:
    """Return the replacement of a secret, which keeps its prefix or its name."""
    groups = match.groupdict()
    name, sign, value = (groups[part] for part in ("name", "sign", "value"))
    if name is not None:
        quoted = re.match(r"\\*[\"']", value)
        mark = quoted[0] if quoted else ""
        shown = SENSITIVE.sub(_masked_match, value) if _is_harmless(name, sign, value) else mark + MASK + mark
        return name + sign + shown
    begin = next(text for text in groups.values() if text is not None)
    if groups["flag"] is not None and not is_secret_name(begin.strip()):
        return begin + SENSITIVE.sub(_masked_match, match[0].removeprefix(begin))
    return begin + MASK + ("@" if groups["url"] is not None or groups["user"] is not None else "")


def _is_harmless(name: str, sign: str, value: str) -> bool:
    """Return whether `name=value` or `name: value` in a text is not secret: a number, a word of a sentence, code."""
    inner = value.strip("\\\"'")
    if inner.lower() in NOT_SECRET or inner.isdigit() or is_special_token(inner) or not is_secret_name(name):
        return True
    is_quoted, has_digit = inner != value, any(map(str.isdigit, inner))
    if name.lower() in ("key", "token") and ":" in sign:
        return True
    if is_quoted or name.isupper():
        return False
    if name.lower() == "key":
        return not has_digit
    return "(" in inner or not (has_digit or ("=" in sign and "." not in inner))
