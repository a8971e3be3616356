"""Checkpoints that cannot be trained are refused with a clear message before the model's weights are loaded."""

import json

import pytest
from merging import edit
from quick import slow
from safetensors.torch import load_file, save_file

import hfkit
from hfkit.commands.merge import merge
from hfkit.core.errors import ConfigError, HfkitError

WEIGHTS = "adapter_model.safetensors"
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
STAGES = [("sft", {"lora_r": None}), ("reward", {}), ("ppo", FUNCTIONS)]


def require_refused(folder, reported: str, config_of, tmp_path) -> None:
    for stage, changes in STAGES:
        with pytest.raises(ConfigError, match=reported):
            config_of(stage, tmp_path / "out", model_name_or_path=str(folder), **changes)
    for use in (hfkit.load_policy, lambda path: merge(path, tmp_path / "merged")):
        with pytest.raises(HfkitError, match=reported):
            use(str(folder))


@pytest.mark.parametrize(
    ("rename", "reported"),
    [
        (lambda name: name.removeprefix("base_model.model."), "has no module for model.layers"),
        (lambda name: name.replace("model.model.", "model._orig_mod.model."), "has no module for .*_orig_mod"),
        (lambda name: name.replace("layers.0", "layers.9"), "has no module for .*layers.9"),
    ],
    ids=["no prefix", "compiled", "another depth"],
)
def test_tensors_under_names_that_peft_would_not_load(rename, reported, sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    save_file({rename(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    require_refused(folder, reported, config_of, tmp_path)


def test_tensors_of_another_rank(sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", r=16)
    require_refused(folder, "size mismatch for .*lora_A", config_of, tmp_path)


def test_files_that_change_are_checked_again(sft_dir, base_dir, copy, config_of, tmp_path):
    """Those of the adapter and those of its base, although they were checked before."""
    folder, base = copy(sft_dir), copy(base_dir)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    own = (folder / WEIGHTS, folder, "has no module for"), (base / "model.safetensors", base, "lacks 1 weights")
    for weights, model, reported in (*own, (base / "model.safetensors", folder, "was trained on the base")):
        config_of("sft", tmp_path / "out", model_name_or_path=str(model), lora_r=None)
        whole = weights.read_bytes()
        (name, *_), tensors = sorted(load_file(weights)), load_file(weights)
        tensors[f"{name}.other"] = tensors.pop(name)
        save_file(tensors, weights, {"format": "pt"})
        with pytest.raises(ConfigError, match=reported):
            config_of("sft", tmp_path / "out", model_name_or_path=str(model), lora_r=None)
        weights.write_bytes(whole)


def test_a_broken_link_in_the_folder_is_ignored(sft_dir, copy, config_of, tmp_path):
    folder = copy(sft_dir)
    (folder / "notes.txt").symlink_to("nothing")
    config_of("sft", tmp_path / "out", model_name_or_path=str(folder), lora_r=None)


def test_an_embedding_that_was_trained_without_saying_so(sft_dir, base_dir, copy, config_of, tmp_path, no_weights):
    folder, name = copy(sft_dir), "model.embed_tokens.weight"
    embedding = load_file(base_dir / "model.safetensors")[name] + 1
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, f"base_model.model.{name}": embedding}, folder / WEIGHTS)
    require_refused(folder, "has different weights for model.embed_tokens.weight", config_of, tmp_path)


def test_an_adapter_of_an_adapter(sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(sft_dir))
    require_refused(folder, "is an adapter itself", config_of, tmp_path)


@pytest.mark.parametrize("content", ["{broken", "[1]", json.dumps({"max_new_tokens": 0})])
def test_a_generation_config_that_cannot_be_read(content, base_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(base_dir)
    (folder / "generation_config.json").write_text(content)
    for stage, changes in STAGES:
        with pytest.raises(ConfigError, match=r"generation_config.json"):
            config_of(stage, tmp_path / "out", model_name_or_path=str(folder), **changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"use_liger_kernel": True}, "use_liger_kernel"), ({"loss_type": "chunked_nll"}, "loss_type")],
)
def test_a_loss_that_leaves_out_the_adapter_on_the_head(changes, key, base_dir, config_of, tmp_path, no_weights):
    lora = {"model_name_or_path": str(base_dir), "lora_target_modules": ["q_proj", "lm_head"]}
    config_of("sft", tmp_path / "out", **lora)
    with pytest.raises(ConfigError) as error:
        config_of("sft", tmp_path / "out", **lora, **changes)
    assert key in {problem.key for problem in error.value.problems}


def test_prompts_cannot_be_merged(sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", peft_type="PROMPT_TUNING")
    with pytest.raises(ConfigError, match="a PROMPT_TUNING adapter cannot be merged"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder), use_peft=None, lora_r=None)


@pytest.mark.parametrize("model_type", ["bert", "t5"])
def test_models_that_are_not_decoders_are_refused(model_type, base_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(base_dir)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 400}))
    with pytest.raises(ConfigError, match=f"{model_type} is not a causal language model"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder), max_length=16)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"a_newer_setting": True}, "sets a_newer_setting, which this version of PEFT would ignore: update PEFT"),
        slow({"arrow_config": {"top_k": 3}}, "routes between other adapters"),
    ],
)
def test_settings_that_would_be_ignored(changes, reported, sft_dir, copy, config_of, tmp_path, no_weights):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", **changes)
    require_refused(folder, reported, config_of, tmp_path)
    edit(folder / "adapter_config.json", **dict.fromkeys(changes))  # unset values are allowed
    for stage, options in STAGES:
        config_of(stage, tmp_path / "out", model_name_or_path=str(folder), **options)
