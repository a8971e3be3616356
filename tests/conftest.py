"""Shared fixtures: no network, and one small model per stage, created once per session by hfkit itself."""

import atexit
import gc
import os
import shutil
import tempfile

# Imports make a million objects that stay: to look through them again and again takes a tenth of their time.
gc.disable()

# Everything except `make test-gpu` computes on the CPU, where runs are bitwise reproducible, even if there is a GPU.
if os.environ.get("HFKIT_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def remove_own(folder: str, process: int) -> None:
    """Remove a folder at the end of the process that made it, but not at the end of its forks."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


# Before any library reads them.
HF_HOME = tempfile.mkdtemp(prefix="hfkit-tests-")
atexit.register(remove_own, HF_HOME, os.getpid())
os.environ.update(
    HF_HOME=HF_HOME,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    TQDM_DISABLE="1",
    TRL_EXPERIMENTAL_SILENCE="1",
    TRANSFORMERS_VERBOSITY="error",
)

import copy
import fcntl
import json
import signal
import socket
from importlib import import_module
from pathlib import Path

import matplotlib
import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from network import is_local

from hfkit.cli import main
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.core.console import take_warnings
from hfkit.stages.checks.stage import problems_of

pytest.register_assert_rewrite("interruption")
# Drawing the plot takes a fifth of a tiny run, and ticks take a third of that.
matplotlib.rcParams.update(dict.fromkeys(["xtick.bottom", "xtick.labelbottom", "ytick.left", "ytick.labelleft"], False))
# Fixtures of more than one file. A second conftest.py in a folder without __init__.py replaces this module.
pytest_plugins = [
    "attack_fixtures",
    "browser",
    "card_fixtures",
    "data_fixtures",
    "family_fixtures",
    "foreign_fixtures",
    "hostile_models",
    "hub_fixtures",
    "label_fixtures",
    "memos",
    "merging",
    "planned",
    "serve_fixtures",
    "vllm_fixtures",
    "workers",
]

NAMES = "Ann Bob Cid Dee Eve Fay Gus Hal".split()
COLOURS = "red blue green pink".split()
FACTS = [(name, colour) for name in NAMES for colour in COLOURS]
ROWS = {
    "docs": [{"text": f"{name} likes {colour}. The colour of {name} is {colour}."} for name, colour in FACTS * 6],
    "turns": [{"prompt": f"What does {name} like?", "response": f"{name} likes {colour}."} for name, colour in FACTS],
    "pairs": [
        {"prompt": f"What does {name} like?", "chosen": f"{name} likes {colour}, thank you.", "rejected": colour}
        for name, colour in FACTS
    ],
    "prompts": [{"prompt": f"What does {name} like?"} for name in NAMES],
}
SHAPE = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "max_position_embeddings": 256}
STEPS = {"max_steps": 6, "save_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
# A short run of each stage: its rows, its settings, and the fixtures of its inputs.
TINY = {
    "tokenizer": ("docs", {"vocab_size": 400}, {}),
    "pretrain": (
        "docs",
        {**STEPS, "model_config": SHAPE, "block_size": 32, "max_steps": 12, "learning_rate": 5e-3},
        {"tokenizer_name_or_path": "tokenizer_dir"},
    ),
    "sft": (
        "turns",
        {**STEPS, "test_split_size": 8, "max_length": 64, "use_peft": True, "lora_r": 4},
        {"model_name_or_path": "base_dir"},
    ),
    "reward": (
        "pairs",
        {**STEPS, "test_split_size": 8, "max_length": 64, "use_peft": True},
        {"model_name_or_path": "sft_dir"},
    ),
    "dpo": (
        "pairs",
        {
            **{**STEPS, "test_split_size": 8, "max_length": 64, "use_peft": True, "learning_rate": 1e-3},
            **{"response_length": 8, "eval_prompts": 4},
        },
        {"model_name_or_path": "sft_dir"},
    ),
    "ppo": (
        "prompts",
        {
            **{"use_peft": True, "max_prompt_length": 32, "response_length": 8, "total_episodes": 8},
            **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_mini_batches": 2},
            **{"num_ppo_epochs": 2, "learning_rate": 1e-3},
        },
        {"model_name_or_path": "sft_dir", "reward_model_path": "reward_dir"},
    ),
    **{
        name: (
            "prompts",
            {
                **{"use_peft": True, "max_prompt_length": 32, "response_length": 8, "max_steps": 2},
                **{"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4},
                **{"learning_rate": 1e-3},
            },
            {"model_name_or_path": "sft_dir", "reward_model_path": "reward_dir"},
        )
        for name in ("grpo", "rloo")
    },
}


def pytest_collection_modifyitems(items):
    """Raise the time limit of slow tests, and of tests that compile for a GPU; without one, skip the latter."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and HFKIT_TEST_GPU=1"))
        elif item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.timeout(900))
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Allow connections only to Unix sockets and to servers of the tests."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded(self, address):
        if self.family != socket.AF_UNIX and not is_local(address):
            raise AssertionError(f"a test went to the network: {address}")
        return connect(self, address)

    def refuse(host, port, *args, **kwargs):
        if is_local((host, port)):
            return look_up(host, port, *args, **kwargs)
        raise AssertionError(f"a test looked up a host: {host}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Exempt all existing objects, mostly those of libraries, from garbage collection.

    Each Trainer runs a full collection; over a million objects it takes longer than the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def heard_interrupts():
    """Handle Ctrl-C even if tests run in the background of a script, whose shell ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_warnings():
    """Drop the warnings of a test: otherwise the next run in the process would record them."""
    yield
    take_warnings()


@pytest.fixture(autouse=True)
def exact_products():
    """Begin each test with exact float32 products, whatever the last stage in this process has set for a GPU."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with docs.jsonl, turns.jsonl, pairs.jsonl and prompts.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    for name, rows in ROWS.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def python_path(*folders: Path) -> str:
    """Return a value of PYTHONPATH: the given folders, then the current ones."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def rows_file(tmp_path):
    """Writes rows to a file and returns `datasets` for it."""

    def write(rows: list[dict], name: str = "rows.jsonl") -> list[dict]:
        return [{"path": write_rows(tmp_path / name, rows)}]

    return write


@pytest.fixture(scope="session")
def config_of(data, request):
    """config_of(stage, output_dir, **changes): the tiny config of a stage, validated like a user's."""

    def make(stage: str, output_dir: Path, **changes):
        rows, settings, inputs = TINY[stage]
        settings = {key: one for key, one in settings.items() if key.replace("_steps", "_strategy") not in changes}
        made = {key: str(request.getfixturevalue(name)) for key, name in inputs.items() if key not in changes}
        values = {"datasets": [{"path": str(data / f"{rows}.jsonl")}], **settings, **made, **changes}
        values = {key: value for key, value in values.items() if value is not None}
        return load_config(STAGES[stage].config_class, values, problems_of, output_dir=str(output_dir))

    return make


@pytest.fixture(scope="session")
def run_stage(config_of):
    """run_stage(stage, output_dir, **changes) -> the folder that the stage wrote."""

    def run(stage: str, output_dir: Path, **changes) -> Path:
        return import_module(f"hfkit.stages.{stage}").main(config_of(stage, output_dir, **changes))

    return run


@pytest.fixture
def hfkit(capsys, monkeypatch):
    """hfkit(*argv) -> the output of a successful command, in lines of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*argv) -> str:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tokenizer_dir(run_stage, runs) -> Path:
    return run_stage("tokenizer", runs / "tokenizer")


@pytest.fixture(scope="session")
def base_dir(run_stage, runs) -> Path:
    """A full Llama of 2 layers."""
    return run_stage("pretrain", runs / "pretrain")


@pytest.fixture(scope="session")
def sft_dir(run_stage, runs) -> Path:
    """An adapter on `base_dir`."""
    return run_stage("sft", runs / "sft")


@pytest.fixture(scope="session")
def reward_dir(run_stage, runs) -> Path:
    """An adapter with a score head, started from `sft_dir`."""
    return run_stage("reward", runs / "reward")


@pytest.fixture(scope="session")
def ppo_dir(run_stage, runs) -> Path:
    """Two updates of PPO on the adapter of `sft_dir`."""
    return run_stage("ppo", runs / "ppo", test_split_size=4)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    from hfkit.models.tokenizers import load_tokenizer

    return load_tokenizer(str(tokenizer_dir))


@pytest.fixture
def hub():
    """hub(commit, folder) -> the Hub id of a folder in the Hub's cache, whose `main` is then that commit.

    Tests in other processes that share the cache wait for the end of this one.
    """
    root = Path(HF_HUB_CACHE) / "models--someone--tiny"

    def add(commit: str, folder: Path) -> str:
        shutil.copytree(folder, root / "snapshots" / commit, ignore=shutil.ignore_patterns("checkpoint-*"))
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        if not (folder / "config.json").exists():  # the Hub's client caches which files a repository lacks
            (root / ".no_exist" / commit).mkdir(parents=True)
            (root / ".no_exist" / commit / "config.json").touch()
        return "someone/tiny"

    with open(Path(HF_HOME) / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield add
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def with_template(tokenizer):
    """with_template(template) -> the tiny tokenizer with another chat template, or without one."""

    def make(template: str | None):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        return changed

    return make
