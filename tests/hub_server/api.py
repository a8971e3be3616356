"""The API of the Hub: accounts, repositories, commits, LFS batches, files."""

import base64
import json
from urllib.parse import parse_qs, quote, unquote

import yaml

from hub_server import cards, storage
from hub_server.store import Blob, Commit, Refused, Repo, is_lfs
from hub_server.web import Answer, Call, ranged, sign


def whoami(call: Call) -> Answer:
    if call.user is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"name": name, "type": "org"} for name, members in call.hub.store.orgs.items() if call.user in members]
    return Answer({"type": "user", "name": call.user, "fullname": call.user, "orgs": orgs, "auth": {}})


def validate_yaml(call: Call) -> Answer:
    errors, warnings = cards.faults_of(call.json()["content"], call.json()["repoType"])
    status = 400 if errors else 200
    if call.headers.get("Accept") == "text/plain":
        return Answer(status=status, content="\n".join(errors).encode())
    messages = {
        key: [{"message": text} for text in texts] for key, texts in (("errors", errors), ("warnings", warnings))
    }
    return Answer(messages, status)


def create(call: Call) -> Answer:
    given = call.json()
    owner, type = given.get("organization") or call.user, given.get("type") or "model"
    repo_id = f"{owner}/{given['name']}"
    if not call.hub.store.may_write(call.user, repo_id):
        raise Refused(403, f"You don't have the rights to create a {type} under the namespace {owner!r}")
    url = f"{call.hub.endpoint}/{prefix(type)}{repo_id}"
    if (type, repo_id) in call.hub.store.repos:
        raise Refused(409, "You already created this model repo", url=url)
    private = given.get("visibility") == "private" or given.get("private", False)
    call.hub.store.add(repo_id, private=private, type=type)
    return Answer({"url": url, "name": repo_id, "id": repo_id})


def delete(call: Call) -> Answer:
    given = call.json()
    repo_id = f"{given.get('organization') or call.user}/{given['name']}"
    writable(call, given.get("type") or "model", repo_id)
    del call.hub.store.repos[given.get("type") or "model", repo_id]
    return Answer({})


def prefix(type: str) -> str:
    return "" if type == "model" else f"{type}s/"


def readable(call: Call, type: str, repo_id: str) -> Repo:
    """Return a repository that the caller may read; others are not found."""
    repo = call.hub.store.repos.get((type, repo_id))
    if repo is None or (repo.private and not call.hub.store.may_write(call.user, repo_id)):
        raise Refused(404 if call.user else 401, "Repository not found", "RepoNotFound")
    return repo


def writable(call: Call, type: str, repo_id: str) -> Repo:
    repo = readable(call, type, repo_id)
    if not call.hub.store.may_write(call.user, repo_id):
        raise Refused(403 if call.user else 401, "You don't have the rights to write to it")
    return repo


def info(call: Call, type: str, repo_id: str, revision: str = "main") -> Answer:
    repo = readable(call, type, repo_id)
    commit, newest = repo.at(unquote(revision)), repo.history("main")
    siblings = [{"rfilename": path} for path in commit.files]
    if "blobs" in call.query:
        siblings = [
            {"rfilename": path, "size": len(blob.content), "blobId": blob.oid} | sibling_lfs(blob)
            for path, blob in commit.files.items()
        ]
    card = front_matter(commit)
    answer = {"_id": "0" * 24, "id": repo_id, "sha": commit.oid, "private": repo.private, "gated": False}
    answer |= {"author": repo_id.split("/")[0], "disabled": False, "downloads": 0, "likes": 0, "siblings": siblings}
    answer |= {"createdAt": newest[-1].date, "lastModified": newest[0].date, "cardData": card}
    tags = [tag for tag in card.get("tags", []) if isinstance(tag, str)]
    facts = {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    return Answer(answer | {"tags": tags, "modelId": repo_id, **facts})


def sibling_lfs(blob: Blob) -> dict:
    return {"lfs": {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.sha256 else {}


def front_matter(commit: Commit) -> dict:
    text = commit.files["README.md"].content.decode() if "README.md" in commit.files else ""
    parts = text.split("---\n")
    return (yaml.safe_load(parts[1]) or {}) if text.startswith("---\n") and len(parts) > 2 else {}


def set_visibility(call: Call, type: str, repo_id: str) -> Answer:
    repo, given = writable(call, type, repo_id), call.json()
    repo.private = given.get("visibility", "private" if given.get("private") else "public") == "private"
    return Answer({"private": repo.private})


def auth_check(call: Call, type: str, repo_id: str) -> Answer:
    readable(call, type, repo_id)
    return Answer({})


def tree(call: Call, type: str, repo_id: str, revision: str, folder: str | None = None) -> Answer:
    commit, folder = readable(call, type, repo_id).at(unquote(revision)), unquote(folder or "")
    recursive = call.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = {}
    for path, blob in commit.files.items():
        if not folder or path.startswith(f"{folder}/"):
            rest = path[len(folder) + 1 :] if folder else path
            names = rest.split("/")
            for depth in range(1, len(names)):
                inner = "/".join([*([folder] if folder else []), *names[:depth]])
                if recursive or depth == 1:
                    entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
            if recursive or len(names) == 1:
                entries[path] = entry_of(path, blob, commit)
    if folder and not entries:
        raise Refused(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
    return paged(call, sorted(entries.values(), key=lambda entry: entry["path"]))


def entry_of(path: str, blob: Blob, commit: Commit) -> dict:
    """Return the entry of a file in listings."""
    entry = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry


def paged(call: Call, items: list) -> Answer:
    """Return a page of a listing, with the URL of the next one in the Link header."""
    start, size = int(call.query.get("cursor", ["0"])[0]), call.hub.page
    headers = {}
    if start + size < len(items):
        kept = "".join(f"&{key}={quote(value[0])}" for key, value in call.query.items() if key != "cursor")
        headers["Link"] = f'<{call.hub.endpoint}{call.path}?cursor={start + size}{kept}>; rel="next"'
    return Answer(items[start : start + size], headers=headers)


def paths_info(call: Call, type: str, repo_id: str, revision: str) -> Answer:
    commit = readable(call, type, repo_id).at(unquote(revision))
    is_form = "json" not in (call.headers.get("Content-Type") or "")
    wanted = parse_qs(call.body.decode())["paths"] if is_form else call.json()["paths"]
    entries = [entry_of(path, commit.files[path], commit) for path in wanted if path in commit.files]
    folders = [path for path in wanted if any(file.startswith(f"{path.rstrip('/')}/") for file in commit.files)]
    return Answer(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])


def refs(call: Call, type: str, repo_id: str) -> Answer:
    repo = readable(call, type, repo_id)
    listed = {
        kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": oid} for name, oid in named.items()]
        for kind, ref, named in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
    }
    return Answer({**listed, "converts": [], "pullRequests": []})


def commits(call: Call, type: str, repo_id: str, revision: str) -> Answer:
    history = readable(call, type, repo_id).history(unquote(revision))
    return paged(
        call,
        [
            {
                **{"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date},
                **{"authors": [{"user": commit.author}], "parents": [commit.parent] if commit.parent else []},
            }
            for commit in history
        ],
    )


def branch(call: Call, type: str, repo_id: str, name: str) -> Answer:
    repo, name = writable(call, type, repo_id), unquote(name)
    if call.method == "DELETE":
        del repo.branches[name]
    elif name in repo.branches:
        raise Refused(409, "Reference already exists", url=f"{call.hub.endpoint}/{repo_id}")
    else:
        start = (json.loads(call.body or b"{}")).get("startingPoint", "main")
        repo.branches[name] = repo.at(start).oid
    return Answer({})


def tag(call: Call, type: str, repo_id: str, name: str) -> Answer:
    repo, name = writable(call, type, repo_id), unquote(name)
    if call.method == "DELETE":
        del repo.tags[name]
    elif call.json()["tag"] in repo.tags:
        raise Refused(409, "Tag reference exists already")
    else:
        repo.tags[call.json()["tag"]] = repo.at(name).oid
    return Answer({})


def preupload(call: Call, type: str, repo_id: str, revision: str) -> Answer:
    files = writable(call, type, repo_id).at(unquote(revision)).files
    return Answer(
        {
            "files": [
                {
                    **{"path": file["path"], "uploadMode": "lfs" if is_lfs(file["path"], file["size"]) else "regular"},
                    **{"shouldIgnore": False, "oid": remote_oid(files.get(file["path"]))},
                }
                for file in call.json()["files"]
            ]
        }
    )


def remote_oid(blob: Blob | None) -> str | None:
    return blob and (blob.sha256 or blob.oid)


def lfs_batch(call: Call, types: str | None, repo_id: str) -> Answer:
    repo = writable(call, type_of(types), repo_id)
    return Answer({"transfer": "basic", "objects": [object_of(call, repo, item) for item in call.json()["objects"]]})


def object_of(call: Call, repo: Repo, item: dict) -> dict:
    """Return how to upload an object; one that exists already has no `actions`."""
    oid, size, step = item["oid"], item["size"], call.hub.multipart_from
    answer = {"oid": oid, "size": size}
    if oid in repo.objects:
        return answer
    git = f"{call.hub.endpoint}/{prefix(repo.type)}{repo.id}.git/info/lfs"
    if size < step:
        upload = {"href": storage.url(call.hub, repo, oid)}
    else:
        parts = range(1, -(-size // step) + 1)
        header = {f"{part:05}": storage.url(call.hub, repo, oid, part) for part in parts}
        href = f"{git}/complete?oid={oid}&signature={sign(call.hub, repo.id + oid)}"
        upload = {"href": href, "header": {"chunk_size": str(step), **header}}
    return answer | {"actions": {"upload": upload, "verify": {"href": f"{git}/verify"}}}


def lfs_complete(call: Call, types: str | None, repo_id: str) -> Answer:
    oid, repo = call.query["oid"][0], call.hub.store.repo(repo_id, type_of(types))
    if call.query["signature"] != [sign(call.hub, repo_id + oid)]:
        raise Refused(403, "SignatureDoesNotMatch")
    content = b"".join(repo.parts[oid, part["partNumber"]] for part in call.json()["parts"])
    blob = call.hub.store.blob("x.safetensors", content)
    if blob.sha256 != oid:
        raise Refused(400, "the parts do not add up to the object")
    repo.objects[oid] = content
    return Answer({"success": True})


def lfs_verify(call: Call, types: str | None, repo_id: str) -> Answer:
    repo, given = writable(call, type_of(types), repo_id), call.json()
    if len(repo.objects.get(given["oid"], b"")) != given["size"]:
        raise Refused(422, "the object did not arrive")
    return Answer({"message": "Authentication OK"})


def commit(call: Call, type: str, repo_id: str, revision: str) -> Answer:
    repo, name = writable(call, type, repo_id), unquote(revision)
    lines = [json.loads(line) for line in call.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with repo.lock:
        if name not in repo.branches:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        head = repo.at(name)
        if not head.oid.startswith(header.get("parentCommit") or ""):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            change(repo, files, line["key"], line["value"])
        readme = files.get("README.md")
        errors = cards.faults_of(readme.content.decode(), type)[0] if readme else []
        if errors:
            raise Refused(400, "\n".join(errors))
        made = repo.commit(name, files, header["summary"], header.get("description", ""), call.user)
    url = f"{call.hub.endpoint}/{prefix(type)}{repo_id}/commit/{made.oid}"
    return Answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def change(repo: Repo, files: dict[str, Blob], key: str, value: dict) -> None:
    """Apply one line of a commit to the files."""
    path = value.get("path")
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in repo.objects:
            raise Refused(400, f"the LFS object of {path} was not uploaded")
        files[path] = Blob(repo.objects[value["oid"]], value["oid"])
    elif key == "deletedFile":
        del files[path]
    elif key == "deletedFolder":
        for file in [file for file in files if file.startswith(path)]:
            del files[file]


def resolve(call: Call, types: str | None, repo_id: str, revision: str, path: str) -> Answer:
    repo, path = readable(call, type_of(types), repo_id), unquote(path)
    commit = repo.at(unquote(revision))
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.files.get(path)
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound", **headers)
    if blob.sha256 is None:
        return ranged(call, blob.content, headers | {"ETag": f'"{blob.oid}"'})
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    headers |= {"Location": storage.url(call.hub, repo, blob.sha256), "ETag": f'"{blob.oid}"'}
    return Answer(content=b"", status=302, headers=headers)


def type_of(types: str | None) -> str:
    """Return "model" for None, "dataset" for "datasets/"."""
    return types.rstrip("s/") if types else "model"


ID, REV = r"([\w.-]+/[\w.-]+?)", r"([^/]+)"
REPO = rf"/api/(model|dataset|space)s/{ID}"
GIT = rf"/((?:dataset|space)s/)?{ID}\.git/info/lfs"
# (methods, path, phase, function); faults and the log use the phases.
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami", whoami),
    ("POST", "/api/validate-yaml", "validate", validate_yaml),
    ("POST", "/api/repos/create", "create", create),
    ("DELETE", "/api/repos/delete", "delete", delete),
    ("GET", REPO, "info", info),
    ("GET", rf"{REPO}/revision/{REV}", "info", info),
    ("PUT", f"{REPO}/settings", "settings", set_visibility),
    ("GET", f"{REPO}/auth-check", "info", auth_check),
    ("GET", rf"{REPO}/tree/{REV}(?:/(.+))?", "tree", tree),
    ("POST", rf"{REPO}/paths-info/{REV}", "paths", paths_info),
    ("GET", f"{REPO}/refs", "refs", refs),
    ("GET", rf"{REPO}/commits/{REV}", "commits", commits),
    ("POST DELETE", rf"{REPO}/branch/{REV}", "branch", branch),
    ("POST DELETE", rf"{REPO}/tag/{REV}", "tag", tag),
    ("POST", rf"{REPO}/preupload/{REV}", "preupload", preupload),
    ("POST", rf"{REPO}/commit/{REV}", "commit", commit),
    ("POST", f"{GIT}/objects/batch", "batch", lfs_batch),
    ("POST", f"{GIT}/complete", "complete", lfs_complete),
    ("POST", f"{GIT}/verify", "verify", lfs_verify),
    ("GET HEAD", rf"/((?:dataset|space)s/)?{ID}/resolve/{REV}/(.+)", "resolve", resolve),
]
