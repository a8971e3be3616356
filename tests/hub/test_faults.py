"""Faults of the Hub in any phase of a push leave the repository unchanged or complete."""

import math
import re
import signal
import socket
import time
from itertools import product

import pytest
from hub_fixtures import User, copies
from quick import mostly_slow, slow
from signals import interrupt, start

from hfkit.core import hub_retry

HOW = ["cut", "lost", 500, 429]
PHASES = ["info", "validate", "create", "preupload", "batch", "put", "verify", "commit"]


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


@pytest.fixture
def base(tmp_path, base_dir):
    return copies(tmp_path, base_dir)[0]


def is_complete(hub_server, repo_id: str, folder) -> bool:
    """Return whether a repository holds a folder's model in one commit after the initial one."""
    repo = hub_server.store.repo(repo_id)
    wanted = ("model.safetensors", "config.json", "tokenizer.json", "loss.png")
    return len(repo.history()) == 2 and all(repo.files()[name] == (folder / name).read_bytes() for name in wanted)


def is_untouched(hub_server, repo_id: str) -> bool:
    """Return whether a repository does not exist, or has its initial commit only."""
    repo = hub_server.store.repos.get(("model", repo_id))
    return repo is None or len(repo.history()) == 1


@pytest.mark.parametrize(("phase", "how"), mostly_slow(product(PHASES, HOW), [*zip(PHASES, HOW * 2, strict=True)]))
def test_a_push_survives_one_fault_in_any_phase(ann, base, hub_server, healed, phase, how):
    name = f"ann/{phase}-{how}"
    healed.set(how, phase, times=1)
    ran = ann.hfkit("push", base, name)
    assert (ran.status, ran.stderr) == (0, "")
    assert is_complete(hub_server, name, base)
    assert healed.now[0].done == 1


@pytest.mark.slow
def test_a_push_and_a_pull_survive_a_fault_in_every_third_request(ann, base, hub_server, healed, tmp_path):
    for how in (500, "cut"):
        healed.set(how, every=3)
        assert ann.hfkit("push", base, f"ann/third-{how}").status == 0
        assert is_complete(hub_server, f"ann/third-{how}", base)
        pulled = ann.hfkit("pull", f"ann/third-{how}", tmp_path / f"{how}")
        # files are fetched in parallel, so one file may fail three times in a row, which is reported
        assert pulled.status == 0 and all("retrying in" in line for line in pulled.stderr.splitlines())
        assert (tmp_path / f"{how}" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
        healed.heal()


@pytest.mark.parametrize("phase", mostly_slow(["batch", "put", "commit"], ["commit"]))
def test_a_lasting_fault_leaves_the_repository_unchanged_and_a_second_push_completes_it(
    ann, base, hub_server, healed, phase
):
    name = f"ann/stays-{phase}"
    healed.set(500, phase)
    ran = ann.hfkit("push", base, name)
    assert ran.status == 1
    *waits, last = ran.stderr.splitlines()
    assert last.startswith("hfkit push: the Hub cannot be reached: ")
    assert [re.sub(r"\d+ s$", "", line.split("; ")[-1]) for line in waits] == ["retrying in "] * 3
    assert is_untouched(hub_server, name)
    healed.heal()
    stored, before = {*hub_server.store.repo(name).objects}, hub_server.uploaded()
    assert bool(stored) == (phase == "commit")
    assert ann.hfkit("push", base, name).status == 0
    assert is_complete(hub_server, name, base)
    repo = hub_server.store.repo(name)
    assert hub_server.uploaded() - before == sum(
        len(content) for sha256, content in repo.objects.items() if sha256 not in stored
    )


@pytest.mark.parametrize("phase", ["put", slow("commit")])
def test_after_kill_9_the_same_command_completes_the_push(user_of, ann, base, hub_server, healed, phase):
    name = f"ann/killed-{phase}"
    victim, requests = user_of("ann"), len(hub_server.log)
    healed.set("hang", phase, skip=1 if phase == "put" else 0)  # one of the two large files arrives
    victim.start("push", base, name)
    assert healed.hanging.wait(60)
    while phase == "put" and not hub_server.store.repo(name).objects:
        time.sleep(0.01)
    victim.kill()
    healed.heal()
    while [request.phase for request in hub_server.log[requests:]].count(phase) < (2 if phase == "put" else 1):
        time.sleep(0.01)  # the request that hung is over soon
    assert is_untouched(hub_server, name)
    stored, before = dict(hub_server.store.repo(name).objects), hub_server.uploaded()
    assert len(stored) == (1 if phase == "put" else 2)
    assert ann.hfkit("push", base, name).status == 0
    assert is_complete(hub_server, name, base)
    objects = hub_server.store.repo(name).objects
    assert hub_server.uploaded() - before == sum(len(objects[key]) for key in objects.keys() - stored.keys())


@pytest.mark.slow  # two commands start as separate processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_push_and_pull_which_write_all_or_nothing(ann, base, hub_server, healed, tmp_path, number):
    name, out = f"ann/signal-{number.name}", tmp_path / "pulled"
    for verb, phase in (("push", "put"), ("pull", "resolve")):
        argv = ("push", base, name) if verb == "push" else ("pull", name, out)
        healed.set("hang", phase)
        ended = interrupt(
            start(argv, tmp_path, **ann.env, HF_HUB_OFFLINE="0"), number, when=healed.hanging.is_set, timeout=30
        )
        healed.heal()
        assert (ended.status, ended.orphans) == (128 + number, []), ended
        last = ended.output.splitlines()[-1]
        assert "Traceback" not in ended.output and f"hfkit {verb}: interrupted by {number.name}; to resume" in last
        assert is_untouched(hub_server, name) if verb == "push" else not out.exists()
        assert ann.hfkit(*argv).status == 0
    assert is_complete(hub_server, name, base)
    assert (out / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_commit_of_somebody_else_during_a_push_is_kept(ann, base, hub_server, healed):
    assert ann.hfkit("push", base, "ann/both").status == 0
    (base / "generation_config.json").write_text("{}")
    repo = hub_server.store.repo("ann/both")
    healed.set("slow", "preupload", seconds=0.3, times=1)
    ann.start("push", base, "ann/both")
    while not healed.now[0].done:
        time.sleep(0.01)
    head = repo.at("main")
    repo.commit("main", head.files | {"notes.txt": hub_server.store.blob("notes.txt", b"mine")}, "Theirs", "", "ann")
    ran = ann.finish()
    assert ran.status == 1
    assert "somebody else has just committed to ann/both: push again" in ran.stderr
    assert repo.history()[0].title == "Theirs"
    assert ann.hfkit("push", base, "ann/both").status == 0
    assert repo.files()["notes.txt"] == b"mine"


def test_large_files_are_uploaded_in_parts(ann, base, hub_server, healed):
    hub_server.multipart_from = 50_000
    healed.set("cut", "part", "complete", every=2, times=3)
    assert ann.hfkit("push", base, "ann/parts").status == 0
    hub_server.multipart_from = 1 << 30
    assert is_complete(hub_server, "ann/parts", base)
    assert len(hub_server.requests("part")) >= 4


@pytest.mark.slow
def test_without_a_hub_push_and_pull_fail_after_retries(base, tmp_path):
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))  # and not listened at
        user = User(f"http://127.0.0.1:{end.getsockname()[1]}", tmp_path, "hf_" + "a" * 34)
        for argv in (("push", base, "ann/x"), ("pull", "ann/x", tmp_path / "out")):
            ran = user.hfkit(*argv)
            assert ran.status == 1
            *waits, last = ran.stderr.splitlines()
            assert last.startswith(f"hfkit {argv[0]}: the Hub cannot be reached: ConnectError")
            assert len(waits) == 3
        user.kill()


COUNT_CONNECTIONS = """
import socket
connect, socket.tried = socket.socket.connect, []
def counted(self, address):
    socket.tried.append(address)
    return connect(self, address)
socket.socket.connect = counted
"""


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A user whose Hub does not answer."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))  # and not listened at
        user = User(f"http://127.0.0.1:{end.getsockname()[1]}", tmp_path_factory.mktemp("cut-off"), None)
        user.python(COUNT_CONNECTIONS)
        yield user
        user.kill()


def connections(user: User) -> int:
    """Return how often the process of a user has tried to connect since the last call."""
    return user.python("import socket; answer = len(socket.tried); socket.tried.clear()")


def test_without_a_hub_an_id_that_is_not_cached_fails_soon_and_names_both_reasons(cut_off):
    (cut_off.home / "sft.yaml").write_text("model_name_or_path: ann/none\ndatasets: ann/rows\noutput_dir: out\n")
    wanted = "neither a folder nor a model in the Hub's cache, and the Hub cannot be reached"
    for argv in (("sft", "sft.yaml"), ("chat", "ann/none", "--prompt", "Hi"), ("merge", "ann/none", "merged")):
        ran = cut_off.hfkit(*argv)
        assert ran.status != 0 and f"cannot load ann/none: {wanted}" in ran.stderr
        assert connections(cut_off) < 6  # huggingface_hub alone repeats a request five times
    ran = cut_off.hfkit("tokenizer", "--datasets", "ann/rows", "--output_dir", "out")
    assert ran.status != 0 and "ann/rows" in ran.stderr
    assert connections(cut_off) < 12


def test_a_path_that_does_not_exist_fails_at_once(cut_off):
    (cut_off.home / "runs").mkdir()
    for path in ("./none", "../none", "/none", "runs/some/none", "runs/none"):
        for argv in (("chat", path, "--prompt", "Hi"), ("tokenizer", "--datasets", path, "--output_dir", "out")):
            ran = cut_off.hfkit(*argv)
            assert ran.status != 0 and path in ran.stderr and "no such f" in ran.stderr, ran.stderr
            assert connections(cut_off) < 2


@pytest.mark.slow
def test_a_hub_id_is_looked_up_although_there_is_a_folder_of_its_user(user_of, base):
    ann = user_of("ann")
    assert ann.hfkit("push", base, "ann/beside").status == 0
    (ann.home / "ann").mkdir()
    assert ann.hfkit("chat", "ann/beside", "--prompt", "Hi").status == 0


def test_offline_push_and_pull_name_the_variable(ann, base, tmp_path):
    ann.python("import huggingface_hub.constants as here; here.HF_HUB_OFFLINE = True")
    try:
        for argv in (("push", base, "ann/x"), ("push", base, "x"), ("pull", "ann/x", tmp_path / "out")):
            ran = ann.hfkit(*argv)
            assert (ran.status, ran.stdout) == (1, "")
            assert ran.stderr == f"hfkit {argv[0]}: HF_HUB_OFFLINE is set: unset it to reach the Hub\n"
    finally:
        ann.python("import huggingface_hub.constants as here; here.HF_HUB_OFFLINE = False")


def test_offline_the_hub_is_neither_asked_nor_waited_for(monkeypatch):
    monkeypatch.setattr(hub_retry, "_has_answered", True)  # before it was set
    monkeypatch.setattr(hub_retry.time, "sleep", pytest.fail)
    monkeypatch.setattr(hub_retry.constants, "HF_HUB_OFFLINE", True)
    assert not hub_retry.can_reach_hub()
    assert hub_retry.why_unreachable() == "HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("number", "route", "attempts"),
    [(socket.EAI_NONAME, True, 1), (socket.EAI_AGAIN, False, 1), (socket.EAI_AGAIN, True, 3)],
)
def test_without_a_network_the_hub_is_asked_once(monkeypatch, number, route, attempts):
    asked = []

    def resolve(*args, **kwargs):
        asked.append(args)
        raise socket.gaierror(number, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(hub_retry, "_has_answered", False)
    monkeypatch.setattr(hub_retry, "_last_failure", -math.inf)
    monkeypatch.setattr(hub_retry, "has_route", lambda: route)
    monkeypatch.setattr(hub_retry.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_retry.constants, "ENDPOINT", "https://hub.example")
    assert not hub_retry.can_reach_hub(waits=(0.0, 0.0, 0.0))
    assert len(asked) == attempts
    assert "no such name" in hub_retry.why_unreachable()
