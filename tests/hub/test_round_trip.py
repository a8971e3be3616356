"""Pushed models give the logits of the trained ones, by Hub id in a fresh process or pulled and loaded offline."""

import numpy as np
import pytest
import torch
from conftest import NAMES
from hub_fixtures import copies
from read_rows import encode_conversation

import hfkit
from hfkit.commands.merge import merge

# Plain Transformers and PEFT, without hfkit. Logits are saved in {folder}.
PLAIN = """
import sys
import numpy as np, torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

rows = torch.from_numpy(np.load("{folder}/rows.npy"))

def reward(name):
    config = PeftConfig.from_pretrained(name)
    base, revision = config.base_model_name_or_path, config.revision
    model = AutoModelForSequenceClassification.from_pretrained(base, revision=revision, num_labels=1)
    return PeftModel.from_pretrained(model, name)

for load, name in (
    (AutoModelForCausalLM.from_pretrained, "ann/pretrain"),
    (AutoModelForCausalLM.from_pretrained, "ann/merged"),
    (AutoPeftModelForCausalLM.from_pretrained, "bob/sft"),
    (AutoPeftModelForCausalLM.from_pretrained, "bob/ppo"),
    (reward, "bob/reward"),
):
    model = load(name).eval()
    model.config.pad_token_id = AutoTokenizer.from_pretrained(name).pad_token_id
    with torch.no_grad():
        logits = model(rows, attention_mask=(rows != model.config.pad_token_id).long()).logits
    np.save("{folder}/" + name.replace("/", "-") + ".npy", logits.numpy())
text = "What does Ann like?"
answer = [AutoTokenizer.from_pretrained(name)(text).input_ids for name in ("ann/tokenizer", "bob/ppo")]
assert "hfkit" not in sys.modules
"""
# The same with hfkit, from an empty cache and an unreliable Hub.
BY_HFKIT = """
import os, shutil
import hfkit, numpy as np, torch

shutil.rmtree(os.environ["HF_HOME"] + "/hub", ignore_errors=True)
rows = torch.from_numpy(np.load("{folder}/rows.npy"))
answer = []
for name in ("bob/ppo@{commit}", "ann/merged"):
    model, tokenizer = hfkit.load_policy(name, dtype="auto")
    with torch.no_grad():
        logits = model(rows, attention_mask=(rows != tokenizer.pad_token_id).long()).logits.float()
    answer.append(np.abs(logits.numpy() - np.load("{folder}/" + name.split("@")[0].replace("/", "-") + ".npy")).max())
reward = hfkit.load_reward("bob/reward@main")
answer = [float(value) for value in answer] + reward(["What does Ann like?"], ["Ann likes red."]).tolist()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def made(folder, tokenizer_dir, base_dir, sft_dir, reward_dir, ppo_dir):
    """Copies of all runs, and the SFT adapter merged, by name."""
    made = {copy.name: copy for copy in copies(folder, tokenizer_dir, base_dir, sft_dir, reward_dir, ppo_dir)}
    return made | {"merged": merge(str(made["sft"]), folder / "merged", dtype="float32")}


@pytest.fixture(scope="module")
def rows(made, folder) -> torch.Tensor:
    """8 padded conversations, as `rows.npy` too."""
    _, tokenizer = hfkit.load_policy(str(made["pretrain"]))
    ids = [encode_conversation(tokenizer, f"What does {name} like?", f"{name} likes red.")[0] for name in NAMES]
    padded = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="np")["input_ids"]
    np.save(folder / "rows.npy", padded)
    return torch.from_numpy(padded)


@pytest.fixture(scope="module")
def shared(made, hub_server, user_of) -> None:
    """The base, the merged model and the tokenizer by ann, the adapters by bob."""
    ann, bob = user_of("ann"), user_of("bob")
    for user, owner, names in (
        (ann, "ann", ("tokenizer", "pretrain", "merged")),
        (bob, "bob", ("sft", "reward", "ppo")),
    ):
        for name in names:
            ran = user.hfkit("push", made[name], f"{owner}/{name}", "--public")
            assert ran.status == 0, ran.stderr


@pytest.fixture(scope="module")
def cid(user_of):
    """Somebody else, with an empty cache."""
    return user_of("cid")


@pytest.fixture(scope="module")
def plain(shared, folder, rows, cid) -> list[list[int]]:
    """The logits of the pushed models by plain Transformers and PEFT, in files of `folder`, and ids of a text."""
    return cid.python(PLAIN.replace("{folder}", str(folder)))


def logits_here(folder, rows) -> np.ndarray:
    name = folder.name
    if name == "reward":
        model = hfkit.load_reward(str(folder)).model
    else:
        model, _ = hfkit.load_policy(str(folder))
    with torch.no_grad():
        return model(rows, attention_mask=(rows != model.config.pad_token_id).long()).logits.numpy()


def test_transformers_and_peft_alone_get_the_same_logits_and_rewards(plain, made, folder, rows, hub_server):
    assert plain[0] == plain[1]
    names = {"pretrain": "ann", "merged": "ann", "sft": "bob", "ppo": "bob", "reward": "bob"}
    loaded = {name: np.load(folder / f"{owner}-{name}.npy") for name, owner in names.items()}
    for name, logits in loaded.items():
        assert np.array_equal(logits, logits_here(made[name], rows)), name
    assert not np.allclose(loaded["sft"], loaded["ppo"], atol=1e-4)
    assert not np.allclose(loaded["pretrain"], loaded["sft"], atol=1e-4)
    assert hub_server.leaks == []
    assert hub_server.requests("download")  # the storage was asked


@pytest.mark.slow
def test_hfkit_loads_models_from_an_unreliable_hub_into_an_empty_cache(plain, made, folder, cid, hub_server, healed):
    commit = hub_server.store.repo("bob/ppo").branches["main"]
    healed.set(503, every=6)
    healed.set("cut", "download", every=4)
    *differences, reward = cid.python(BY_HFKIT.replace("{folder}", str(folder)).replace("{commit}", commit))
    assert differences == [0, 0]
    here = hfkit.load_reward(str(made["reward"]))(["What does Ann like?"], ["Ann likes red."])
    assert reward == here.item()
    assert sum(fault.done for fault in healed.now) > 5


def test_pulled_models_load_offline(shared, made, folder, rows, cid):
    for name in ("bob/ppo", "bob/reward", "ann/merged"):
        out = folder / "pulled" / name.split("/")[1]
        earlier = out.parent / f".{out.name}.0123456789ab.pulling"  # of another commit, interrupted
        (earlier / "base").mkdir(parents=True)
        ran = cid.hfkit("pull", name, out)
        assert ran.status == 0, ran.stderr
        assert not [*out.parent.glob(".*"), *out.glob(".*")]
        weights = next(out.glob("*.safetensors")).stat()
        ran = cid.hfkit("pull", name, out)
        assert ran.status == 0 and f"is in {out} already" in ran.stdout
        assert next(out.glob("*.safetensors")).stat() == weights
        # this process is offline, and its sockets are blocked
        assert np.array_equal(logits_here(out, rows), logits_here(made[out.name], rows))


def test_a_pulled_adapter_keeps_its_base_when_pushed_again(shared, folder, cid, hub_server):
    for words in (["pull", "bob/ppo", folder / "mine"], ["push", folder / "mine", "cid/fork"]):
        ran = cid.hfkit(*words)
        assert ran.status == 0, ran.stderr
    fork, ppo = (hub_server.store.repo(name).files() for name in ("cid/fork", "bob/ppo"))
    assert fork["adapter_config.json"] == ppo["adapter_config.json"]
    assert fork["hfkit.json"] == ppo["hfkit.json"]


@pytest.mark.slow
def test_merge_and_plan_take_a_hub_id_with_a_revision(shared, made, folder, cid, hub_server):
    commit = hub_server.store.repo("bob/sft").branches["main"]
    ran = cid.hfkit("merge", f"bob/sft@{commit}", folder / "merged-from-hub", "--dtype", "float32")
    assert ran.status == 0, ran.stderr
    name = "model.safetensors"
    assert (folder / "merged-from-hub" / name).read_bytes() == (made["merged"] / name).read_bytes()
    config = folder / "sft.yaml"
    config.write_text(f"datasets: [{{path: {folder}/rows.jsonl}}]\nuse_peft: true\nmax_length: 64\nmax_steps: 2\n")
    (folder / "rows.jsonl").write_text('{"prompt": "Who?", "response": "Ann."}\n' * 20)
    trained = folder / "trained"
    ran = cid.hfkit("sft", "--config", config, "--model_name_or_path", f"bob/sft@{commit}", "--output_dir", trained)
    assert ran.status == 0, ran.stderr
    ran = cid.hfkit("lineage", trained)
    assert f"start: bob/sft at {commit[:12]} (sft)" in ran.stdout
    plan = cid.hfkit("plan", config, "--model_name_or_path", f"bob/sft@{commit}", "--output_dir", folder / "planned")
    assert plan.status == 0, plan.stderr
    wrong = cid.hfkit("merge", f"bob/sft@{commit}", folder / "wrong", "--revision", "v2")
    assert "keep one of the two" in wrong.stderr
