"""The Hub of these tests answers as huggingface_hub expects."""

import pytest
from hub_server.store import GITATTRIBUTES

ROUND = """
import hashlib
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete, ModelCard
from huggingface_hub import hf_hub_download, snapshot_download
from hfkit.hub.repo_checks import validate_card

api, answer = HfApi(), {}
answer["me"] = api.whoami()["name"]
api.create_repo("ann/m", private=True)
answer["again"] = api.create_repo("ann/m", exist_ok=True).repo_id
weights = bytes(range(256)) * 40
add = lambda path, content: CommitOperationAdd(path, content)
first = api.create_commit("ann/m", [add("model.safetensors", weights), add("a/b/x.json", b"{}")], commit_message="one")
head = api.model_info("ann/m", files_metadata=True)
answer["is_head"] = head.sha == first.oid
answer["files"] = {file.rfilename: file.size for file in head.siblings}
answer["sha256"] = next(f.lfs["sha256"] for f in head.siblings if f.lfs) == hashlib.sha256(weights).hexdigest()
answer["tree"] = [entry.path for entry in api.list_repo_tree("ann/m", recursive=True)]
answer["paths"] = [entry.path for entry in api.get_paths_info("ann/m", ["a/b/x.json", "none"])]
answer["weights"] = open(hf_hub_download("ann/m", "model.safetensors"), "rb").read() == weights
again = api.create_commit("ann/m", [add("model.safetensors", weights)], commit_message="nothing")
answer["no_op"] = again.oid == first.oid
api.create_branch("ann/m", branch="dev/x")
api.create_commit("ann/m", [CommitOperationDelete("a/b/x.json")], commit_message="two", revision="dev/x")
api.create_tag("ann/m", tag="v1")
refs = api.list_repo_refs("ann/m")
answer["refs"] = [ref.name for ref in refs.branches + refs.tags]
answer["titles"] = [commit.title for commit in api.list_repo_commits("ann/m", revision="dev/x")]
answer["snapshot"] = snapshot_download("ann/m", revision="v1")[-40:] == first.oid

def refused(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__} {getattr(getattr(error, 'response', None), 'status_code', '')}".strip()

stale = dict(commit_message="three", parent_commit=first.oid)
api.create_commit("ann/m", [add("y.json", b"1")], commit_message="three")
answer["refused"] = {
    "stale": refused(lambda: api.create_commit("ann/m", [add("y.json", b"2")], **stale)),
    "nowhere": refused(lambda: api.model_info("ann/none")),
    "revision": refused(lambda: api.model_info("ann/m", revision="none")),
    "entry": refused(lambda: hf_hub_download("ann/m", "none.json")),
    "foreign": refused(lambda: api.create_repo("bob/x")),
    "card": refused(lambda: validate_card(ModelCard("---\\nbase_model: /tmp/x\\n---\\n"))),
    "commit of card": refused(lambda: api.create_commit(
        "ann/m", [add("README.md", b"---\\nlicense: none\\n---\\n")], commit_message="card")),
}
validate_card(ModelCard("---\\nlicense: mit\\n---\\n"))
"""


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


def test_the_client_can_create_commit_list_and_download(ann, hub_server):
    hub_server.page = 2  # listings come in pages
    answer = ann.python(ROUND)
    hub_server.page = 1000
    assert answer == {
        **{"me": "ann", "again": "ann/m", "is_head": True, "sha256": True, "weights": True, "no_op": True},
        "files": {".gitattributes": len(GITATTRIBUTES), "model.safetensors": 10240, "a/b/x.json": 2},
        "tree": [".gitattributes", "a", "a/b", "a/b/x.json", "model.safetensors"],
        "paths": ["a/b/x.json"],
        "refs": ["main", "dev/x", "v1"],
        "titles": ["two", "one", "initial commit"],
        "snapshot": True,
        "refused": {
            "stale": "HfHubHTTPError 412",
            "nowhere": "RepositoryNotFoundError 404",
            "revision": "RevisionNotFoundError 404",
            "entry": "RemoteEntryNotFoundError 404",
            "foreign": "HfHubHTTPError 403",
            "card": "ValueError",
            "commit of card": "ValueError",
        },
    }
    assert hub_server.leaks == []


@pytest.mark.slow
def test_private_repositories_are_hidden_from_others(hub_server, user_of):
    hub_server.store.add("ann/secret", {"x.json": b"{}"}, private=True)
    code = """
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
try:
    answer = HfApi().model_info("ann/secret").id
except RepositoryNotFoundError:
    answer = None
"""
    assert user_of("bob").python(code) is None
    assert user_of(None).python(code) is None


def test_multipart_uploads_and_faults(ann, hub_server, healed):
    hub_server.multipart_from = 4000
    code = """
from huggingface_hub import HfApi, CommitOperationAdd
content = bytes(range(250)) * 40
try:
    HfApi().create_repo("ann/parts", exist_ok=True)
    HfApi().create_commit("ann/parts", [CommitOperationAdd("x.safetensors", content)], commit_message="m")
    answer = None
except Exception as error:
    answer = type(error).__name__
"""
    healed.set("cut", "part", times=1)
    assert ann.python(code) is None  # the client tries again by itself
    assert hub_server.store.repo("ann/parts").files()["x.safetensors"] == bytes(range(250)) * 40
    assert [request.received for request in hub_server.requests("part")] == [2000, 4000, 4000, 2000]
    hub_server.multipart_from = 1 << 30
    healed.set("lost", "commit", times=1)
    assert ann.python(code.replace("range(250)", "range(249)")) == "RemoteProtocolError"
    assert len(hub_server.store.repo("ann/parts").history()) == 3  # it was made all the same
    healed.set(500, "commit", times=1)
    assert ann.python(code.replace("range(250)", "range(248)")) == "HfHubHTTPError"
    assert len(hub_server.store.repo("ann/parts").history()) == 3
