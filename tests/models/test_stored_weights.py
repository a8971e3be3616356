"""Every verb refuses checkpoints whose files do not match their config, before weights are loaded."""

import json
import os
import shutil

import pytest
import torch
from merging import edit
from model_outputs import logits
from quick import mostly_slow, slow
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import hfkit
from hfkit.commands.chat.main import chat
from hfkit.commands.merge import merge
from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.evaluation.checks import problems_of
from hfkit.models.loading import load_base

FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
CONTINUED = {"model_config": None, "tokenizer_name_or_path": None}
STAGES = {"sft": {}, "reward": {}, "ppo": FUNCTIONS, "pretrain": CONTINUED}
STILL = {"learning_rate": 1e-12, "max_steps": 1}


def change(folder, changed) -> None:
    """Return a function that changes the weights in a folder with another function."""
    file = folder / "model.safetensors"
    save_file(changed(load_file(file)), file, {"format": "pt"})


def renamed(rename):
    return lambda folder: change(folder, lambda weights: {rename(name): tensor for name, tensor in weights.items()})


def without(name):
    return lambda folder: change(folder, lambda weights: {one: weights[one] for one in weights if one != name})


def shard(folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")


def lose_a_shard(folder) -> None:
    shard(folder)
    (folder / "model-00002-of-00007.safetensors").unlink()


def lose_index_entries(folder) -> None:
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    kept = {name: file for name, file in index["weight_map"].items() if "-00007-of" not in file}
    edit(folder / "model.safetensors.index.json", weight_map=kept)


def reshape(folder) -> None:
    change(folder, lambda weights: weights | {"model.layers.0.mlp.up_proj.weight": torch.zeros(60, 32)})


def truncate(folder) -> None:
    os.truncate(folder / "model.safetensors", 5000)


BROKEN = {
    "compiled": (renamed(lambda name: f"_orig_mod.{name}"), r"lacks 2. weights .*does not use its _orig_mod\."),
    "distributed": (renamed(lambda name: f"module.{name}"), r"lacks 2. weights .*does not use its module\."),
    "of an adapter": (renamed(lambda name: f"base_model.model.{name}"), r"does not use its base_model\."),
    "no norm": (without("model.norm.weight"), r"lacks 1 weights of a Llama.*would be random: model.norm.weight"),
    "more layers": (lambda folder: edit(folder / "config.json", num_hidden_layers=3), "lacks 9 weights"),
    "another shape": (reshape, r"has 1 weights whose shapes differ .*up_proj.weight \(60, 32\), not \(64, 32\)"),
    "a lost shard": (lose_a_shard, "FileNotFoundError.*model-00002-of-00007"),
    "a short index": (lose_index_entries, "lacks 5 weights"),
    "truncated": (truncate, "cannot load .*SafetensorError"),
}


@pytest.fixture
def checkpoint(base_dir, tmp_path):
    """A copy of a full model, without its record."""
    ignored = shutil.ignore_patterns("checkpoint-*", "hfkit.json")
    shutil.copytree(base_dir, tmp_path / "start", ignore=ignored)
    return tmp_path / "start"


@pytest.fixture
def reward_model(base_dir, tokenizer, tmp_path):
    """reward_model(labels) -> a full reward model."""

    def make(labels: int = 1):
        folder = tmp_path / "reward"
        AutoModelForSequenceClassification.from_pretrained(base_dir, num_labels=labels).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def add_tokens(folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def evaluation_of(model, tmp_path, **changes) -> EvaluateConfig:
    values = {"model_name_or_path": str(model), "output_dir": str(tmp_path / "evaluated"), **changes}
    return load_config(EvaluateConfig, values, problems_of)


QUICK = ["compiled", "no norm", "another shape", "a lost shard", "truncated"]


@pytest.mark.parametrize("name", mostly_slow(BROKEN, QUICK))
def test_what_a_checkpoint_does_not_hold(name, checkpoint, config_of, tmp_path, request):
    breaks, reported = BROKEN[name]
    breaks(checkpoint)
    request.getfixturevalue("no_weights")  # forbid loading weights from here on
    for stage, changes in STAGES.items():
        with pytest.raises(ConfigError, match=reported):
            config_of(stage, tmp_path / "out", model_name_or_path=str(checkpoint), **changes)
    for use in (hfkit.load_policy, lambda path: chat(path, prompt="Hi")):
        with pytest.raises(HfkitError, match=reported):
            use(str(checkpoint))


def test_an_adapter_on_such_a_base(checkpoint, sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    (folder / "hfkit.json").unlink()
    edit(folder / "adapter_config.json", base_model_name_or_path=str(checkpoint))
    without("model.norm.weight")(checkpoint)
    for stage in ("sft", "reward", "ppo"):
        with pytest.raises(ConfigError, match="lacks 1 weights"):
            changes = {"model_name_or_path": str(folder), **STAGES[stage]} | (
                {"lora_r": None} if stage == "sft" else {}
            )
            config_of(stage, tmp_path / "out", **changes)
    with pytest.raises(HfkitError, match="lacks 1 weights"):
        merge(str(folder), tmp_path / "merged")


@pytest.mark.parametrize("other", [None, slow("classifier.weight"), "v_head.weight"])
def test_a_reward_model_without_its_head(other, reward_model, config_of, tmp_path, request):
    """Its rewards would be those of a random head."""
    folder, reported = reward_model(), "lacks 1 weights of a LlamaForSequenceClassification, .* score.weight"
    renamed(lambda name: name.replace("score.weight", other) if other else name)(folder)
    if other is None:
        without("score.weight")(folder)
    request.getfixturevalue("no_weights")  # forbid loading weights from here on
    with pytest.raises(HfkitError, match=reported):
        hfkit.load_reward(str(folder))
    with pytest.raises(ConfigError, match=rf"reward_model_path: .*{reported}"):
        config_of("ppo", tmp_path / "out", reward_model_path=str(folder))
    with pytest.raises(ConfigError, match=rf"model_name_or_path: .*{reported}"):
        evaluation_of(folder, tmp_path)


def test_a_classifier_of_two_labels(reward_model, config_of, tmp_path, request):
    folder = reward_model(labels=2)
    request.getfixturevalue("no_weights")  # forbid loading weights from here on
    with pytest.raises(ConfigError, match=r"score.weight \(2, 32\), not \(1, 32\)"):
        config_of("reward", tmp_path / "out", model_name_or_path=str(folder))
    with pytest.raises(ConfigError, match=r"reward_model_path: .*num_labels=2"):
        config_of("ppo", tmp_path / "out", reward_model_path=str(folder))
    with pytest.raises(ConfigError, match=r"model_name_or_path: .*num_labels=2"):
        evaluation_of(folder, tmp_path)


def diverge(folder, file: str, ending: str) -> None:
    weights = load_file(folder / file)
    next(weight for name, weight in weights.items() if name.endswith(ending))[0] = float("nan")
    save_file(weights, folder / file, {"format": "pt"})


@pytest.mark.parametrize("is_adapter", [slow(False), True])
def test_weights_that_are_not_finite(is_adapter, checkpoint, sft_dir, copy, run_stage, tmp_path):
    """An earlier run diverged: all results are NaN, and sampling fails deep inside torch."""
    folder = copy(sft_dir) if is_adapter else checkpoint
    if is_adapter:
        diverge(folder, "adapter_model.safetensors", "q_proj.lora_B.weight")
    else:
        diverge(folder, "model.safetensors", "layers.1.mlp.up_proj.weight")
    reported = rf"{folder} has weights that are not finite, such as .*_proj"
    for stage, changes in STAGES.items():
        if stage != "pretrain" or not is_adapter:
            changes = changes | ({"lora_r": None} if is_adapter and stage == "sft" else {})
            with pytest.raises(HfkitError, match=reported):
                run_stage(stage, tmp_path / stage, model_name_or_path=str(folder), **changes)
    with pytest.raises(HfkitError, match=reported):
        chat(str(folder), prompt="Hi")


def test_weights_that_the_model_has_no_place_for_are_named(checkpoint, capsys):
    wanted = logits(AutoModelForCausalLM.from_pretrained(checkpoint))
    change(checkpoint, lambda weights: weights | {"v_head.summary.weight": torch.zeros(1, 32)})
    assert torch.equal(logits(load_base(str(checkpoint))), wanted)
    assert "has 1 weights that a LlamaForCausalLM does not use: v_head.summary.weight" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [shard, slow(renamed(lambda name: name.removeprefix("model.")))])
def test_other_ways_to_store_a_model(changed, checkpoint, run_stage, tmp_path):
    changed(checkpoint)
    wanted = logits(AutoModelForCausalLM.from_pretrained(checkpoint))
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=str(checkpoint), use_peft=None, lora_r=None, **STILL)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder)), wanted, atol=1e-5)


def test_a_tokenizer_with_ids_beyond_the_embedding(checkpoint, reward_model, sft_dir, copy, tmp_path, request):
    reward, adapter = reward_model(), copy(sft_dir)
    for folder in (checkpoint, reward, adapter):
        add_tokens(folder)
    request.getfixturevalue("no_weights")  # forbid loading weights from here on
    reported = "has ids up to 318, but the model's embedding has only 318 rows"
    for use in (
        lambda: hfkit.load_policy(str(checkpoint)),
        lambda: chat(str(checkpoint), prompt="Hi"),
        lambda: hfkit.load_reward(str(reward)),
        lambda: merge(str(adapter), tmp_path / "merged"),
    ):
        with pytest.raises(HfkitError, match=reported):
            use()


@pytest.mark.parametrize("use_peft", [slow(True), None])
def test_a_policy_with_a_larger_embedding_than_its_reward_model(
    use_peft, checkpoint, reward_model, run_stage, tmp_path
):
    """It samples ids that the tokenizer lacks and the reward model cannot read."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.resize_token_embeddings(2048, mean_resizing=False)
    model.save_pretrained(checkpoint)
    models = {"model_name_or_path": str(checkpoint), "reward_model_path": str(reward_model())}
    folder = run_stage("ppo", tmp_path / "ppo", **models, use_peft=use_peft, **STILL)
    assert torch.allclose(logits(hfkit.load_policy(str(folder))[0]), logits(model), atol=1e-5)


@pytest.mark.parametrize("eos", ["x", ["x"], 1.5, True])
def test_a_token_id_that_is_none(eos, checkpoint, config_of, tmp_path, no_weights):
    edit(checkpoint / "generation_config.json", eos_token_id=eos)
    for stage, changes in STAGES.items():
        with pytest.raises(ConfigError, match=r"generation_config.json .*: eos_token_id is .*, not a token id"):
            config_of(stage, tmp_path / "out", model_name_or_path=str(checkpoint), **changes)
    for use in (hfkit.load_policy, lambda path: chat(path, prompt="Hi")):
        with pytest.raises(HfkitError, match="eos_token_id is"):
            use(str(checkpoint))


def test_a_decoder_whose_config_denies_it(tokenizer, run_stage, tmp_path):
    """The config of gpt_neox says is_decoder: false."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("gpt_neox", **shape, vocab_size=384, eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=str(tmp_path / "base"), **STILL)
    assert torch.allclose(logits(hfkit.load_policy(str(folder))[0]), logits(model), atol=1e-5)


def test_a_base_that_is_nowhere(sft_dir, copy, config_of, tmp_path):
    folder = copy(sft_dir)
    (folder / "hfkit.json").unlink()
    edit(folder / "adapter_config.json", base_model_name_or_path="no/such")
    with pytest.raises(ConfigError, match="no/such"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder), lora_r=None)
    for use in (hfkit.load_policy, hfkit.load_reward):
        for path in (str(folder), "no/such"):
            with pytest.raises(HfkitError):
                use(path)
