"""The storage: a second origin with signed URLs, which need no token. A token that arrives here has leaked."""

import hashlib
from urllib.parse import quote

from hub_server.store import Refused, Repo
from hub_server.web import Answer, Call, ranged, sign


def url(hub, repo: Repo, sha256: str, part: int = 0) -> str:
    """Return the signed URL of an object, or of a part of it."""
    path = f"/{repo.type}/{quote(repo.id, safe='')}/{sha256}/{part}"
    return f"{hub.storage}{path}?signature={sign(hub, path)}"


def signed(call: Call) -> None:
    """Refuse a request without a signature, or with a token, as a real storage does."""
    if "Authorization" in call.headers:
        call.hub.leaks.append(call.path)
        raise Refused(400, "Only one auth mechanism allowed")
    if call.query.get("signature") != [sign(call.hub, call.path)]:
        raise Refused(403, "SignatureDoesNotMatch")


def repo_of(call: Call, type: str, name: str) -> Repo:
    signed(call)
    return call.hub.store.repo(name.replace("%2F", "/"), type)


def put(call: Call, type: str, name: str, sha256: str) -> Answer:
    repo = repo_of(call, type, name)
    if hashlib.sha256(call.body).hexdigest() != sha256:
        raise Refused(400, "BadDigest")
    repo.objects[sha256] = call.body
    return Answer(content=b"")


def put_part(call: Call, type: str, name: str, sha256: str, part: str) -> Answer:
    repo_of(call, type, name).parts[sha256, int(part)] = call.body
    return Answer(content=b"", headers={"ETag": hashlib.md5(call.body).hexdigest()})


def get(call: Call, type: str, name: str, sha256: str) -> Answer:
    return ranged(call, repo_of(call, type, name).objects[sha256], {"ETag": f'"{sha256}"'})


OBJECT = r"/(\w+)/([\w.%-]+)/([0-9a-f]{64})"
ROUTES = [
    ("PUT", OBJECT + "/0", "put", put),
    ("PUT", OBJECT + r"/(\d+)", "part", put_part),
    ("GET HEAD", OBJECT + "/0", "download", get),
]
