"""Loading: pad tokens, bases, adapters as copies, heads, and errors with their remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import TaskType
from quick import mostly_slow
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import hfkit
from hfkit.core.errors import HfkitError
from hfkit.models.loading import cached_config, load_classifier, load_trainable
from hfkit.models.tokenizers import cached_tokenizer, load_tokenizer
from hfkit.records.source import Source


@pytest.fixture
def tokenizer_with(tokenizer_dir, tmp_path):
    """A folder with the tiny tokenizer and other special tokens."""

    def make(**changes) -> str:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return str(tmp_path / "tokenizer")

    return make


def test_a_separate_pad_token_is_kept(tokenizer_dir):
    assert load_tokenizer(str(tokenizer_dir)).pad_token == "<|pad|>"


@pytest.mark.parametrize("pad", ["<|endoftext|>", None])
def test_pad_equal_to_eos_is_replaced_from_the_vocabulary(tokenizer_with, tokenizer, pad):
    mended = load_tokenizer(tokenizer_with(pad_token=pad))
    assert mended.pad_token == "<|pad|>"
    assert len(mended) == len(tokenizer)


@pytest.mark.parametrize("named", ["<|endoftext|>", "<|not there|>"])
def test_a_pad_token_that_cannot_pad_is_refused(tokenizer_dir, named):
    with pytest.raises(HfkitError, match="set pad_token to a token of its vocabulary"):
        load_tokenizer(str(tokenizer_dir), pad_token=named)


def test_a_pad_token_can_be_named(tokenizer_dir):
    assert load_tokenizer(str(tokenizer_dir), pad_token="<|system|>").pad_token == "<|system|>"


def test_pickled_weights_need_consent(base_dir, config_of, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    folder = tmp_path / "pickled"
    shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("*.safetensors", "checkpoint-*"))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"model_name_or_path": str(folder)}
    with pytest.raises(HfkitError, match=f"cannot load {folder}"):
        load_trainable(config_of("sft", tmp_path / "out", **config))
    loaded = load_trainable(config_of("sft", tmp_path / "out", **config, allow_pickle=True))
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_only_the_adapter_trains_and_it_names_its_base(config_of, base_dir, tmp_path):
    model = load_trainable(config_of("sft", tmp_path))
    assert {name.rsplit(".lora_", 1)[-1][0] for name, p in model.named_parameters() if p.requires_grad} == {"A", "B"}
    assert model.peft_config["default"].base_model_name_or_path == str(base_dir)


def test_an_adapter_begins_as_a_copy_of_the_one_it_starts_from(config_of, base_dir, sft_dir, tmp_path):
    model = load_trainable(config_of("reward", tmp_path), TaskType.SEQ_CLS)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (4, 8)  # values of the SFT adapter, not the defaults
    assert config.base_model_name_or_path == str(base_dir)
    weights = load_file(sft_dir / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            assert torch.equal(parameter, weights[name.replace(".default", "")])
    assert sum("score" in name for name, p in model.named_parameters() if p.requires_grad) == 1


def test_a_full_model_starts_from_the_merged_adapter(config_of, sft_dir, tmp_path, tokenizer):
    model = load_trainable(config_of("sft", tmp_path, model_name_or_path=str(sft_dir), use_peft=None, lora_r=None))
    assert all(parameter.requires_grad for parameter in model.parameters())
    adapted, _ = hfkit.load_policy(str(sft_dir))
    ids = torch.tensor([tokenizer("Ann likes").input_ids])
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, adapted(ids).logits, atol=1e-5)


def test_a_full_reward_model_starts_from_the_merged_adapter(config_of, sft_dir, tmp_path, tokenizer):
    model = load_trainable(config_of("reward", tmp_path, use_peft=None), TaskType.SEQ_CLS)
    policy, _ = hfkit.load_policy(str(sft_dir))
    ids = torch.tensor([tokenizer("Ann likes").input_ids])
    with torch.no_grad():
        here, there = (m.eval()(ids, output_hidden_states=True).hidden_states[-1] for m in (model, policy))
    assert torch.allclose(here, there, atol=1e-5)
    assert model.score.weight.requires_grad


def test_an_adapter_for_another_architecture_is_refused(config_of, sft_dir, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(sft_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name.replace("self_attn", "attn"): value for name, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(HfkitError, match="does not fit its base"):
        load_trainable(config_of("sft", tmp_path / "out", model_name_or_path=str(folder)))


def save_classifier(base_dir, tokenizer, folder, labels: int) -> str:
    AutoModelForSequenceClassification.from_pretrained(base_dir, num_labels=labels).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_full_reward_model_is_loaded(base_dir, tokenizer, tmp_path):
    folder = save_classifier(base_dir, tokenizer, tmp_path / "full", 1)
    head = load_file(f"{folder}/model.safetensors")["score.weight"]
    assert torch.equal(load_classifier(folder).score.weight, head)


def test_a_model_that_is_not_a_reward_model_is_refused(base_dir, sft_dir, tokenizer, tmp_path):
    with pytest.raises(HfkitError, match="LlamaForCausalLM"):
        hfkit.load_reward(str(base_dir))
    with pytest.raises(HfkitError, match="CAUSAL_LM adapter, not a reward model"):
        hfkit.load_reward(str(sft_dir))
    with pytest.raises(HfkitError, match="num_labels=2"):
        hfkit.load_reward(save_classifier(base_dir, tokenizer, tmp_path / "two", 2))


@pytest.mark.parametrize(
    ("labels", "message"), [(0, "without its score head"), (2, "has 2 labels; a reward model has one")]
)
def test_a_reward_adapter_without_its_head_or_with_two_labels_is_refused(reward_dir, tmp_path, labels, message):
    folder = tmp_path / "adapter"
    shutil.copytree(reward_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    heads = [name for name in weights if "score" in name]
    for name in heads:
        head = weights.pop(name)
        if labels:
            weights[name] = head.repeat(labels, 1)
    save_file(weights, file)
    with pytest.raises(HfkitError, match=message):
        hfkit.load_reward(str(folder))


def test_a_source_knows_the_base_of_an_adapter(base_dir, sft_dir):
    assert Source.of(str(base_dir)).adapter is None
    source = Source.of(str(sft_dir))
    assert (source.base, source.adapter["r"]) == (str(base_dir), 4)


def test_pain_29_only_the_adapter_is_saved(sft_dir, reward_dir, ppo_dir, base_dir):
    base = (base_dir / "model.safetensors").stat().st_size
    for folder in (sft_dir, reward_dir, ppo_dir):
        assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
        assert not any(folder.glob("*.bin"))
        names = load_file(folder / "adapter_model.safetensors").keys()
        assert all(".lora_" in name or name.endswith("score.weight") for name in names)
    assert (sft_dir / "adapter_model.safetensors").stat().st_size < base / 2


def test_pain_28_no_tokens_are_added(base_dir, sft_dir, reward_dir, ppo_dir):
    rows = json.loads((base_dir / "config.json").read_text())["vocab_size"]
    for folder in (base_dir, sft_dir, reward_dir, ppo_dir):
        assert len(AutoTokenizer.from_pretrained(folder)) == rows


@pytest.mark.parametrize("bf16", mostly_slow([False, True], [True]))
def test_pain_26_one_step_of_qlora_runs(run_stage, tmp_path, bf16):
    pytest.importorskip("bitsandbytes")
    folder = run_stage("reward", tmp_path / "out", load_in_4bit=True, bf16=bf16, max_steps=1)
    assert {weight.dtype for weight in load_file(folder / "adapter_model.safetensors").values()} <= {
        torch.float32,
        torch.bfloat16 if bf16 else torch.float32,
    }


def test_a_4_bit_base_passes_the_same_gradients_on_after_an_evaluation(config_of, tmp_path):
    """bitsandbytes repacks weights on a CPU in evaluation, and no gradient flows through packed weights."""
    pytest.importorskip("bitsandbytes")
    model = load_trainable(config_of("sft", tmp_path, load_in_4bit=True, lora_dropout=0.0))
    ids = torch.arange(5, 25).unsqueeze(0)

    def gradients():
        model.train().zero_grad()
        model(ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    with torch.no_grad():
        model.eval()(ids)
    after = gradients()
    assert [name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)] == []
    assert any(name.startswith("base_model.model.model.layers.0") and grad.any() for name, grad in before.items())


def perplexity(model, rows: list[torch.Tensor]) -> float:
    with torch.no_grad():
        losses = [model(input_ids=ids, labels=ids).loss for ids in rows]
    return float(torch.stack(losses).mean().exp())


def test_pain_27_a_qlora_adapter_merged_into_the_unquantized_base_keeps_its_perplexity(
    run_stage, config_of, tmp_path, tokenizer
):
    pytest.importorskip("bitsandbytes")
    folder = run_stage("sft", tmp_path / "qlora", load_in_4bit=True, bf16=False)
    rows = [torch.tensor([tokenizer(f"{name} likes red.").input_ids]) for name in ("Ann", "Bob", "Cid")]
    adapted, _ = hfkit.load_policy(str(folder))
    merged = load_trainable(
        config_of("sft", tmp_path, model_name_or_path=str(folder), use_peft=None, lora_r=None, dtype="bfloat16")
    )
    assert merged.dtype == torch.bfloat16
    assert perplexity(merged, rows) == pytest.approx(perplexity(adapted, rows), rel=0.01)


def test_pain_24_a_merged_reward_model_keeps_its_head(run_stage, reward_dir, tmp_path):
    folder = run_stage("reward", tmp_path / "full", model_name_or_path=str(reward_dir), use_peft=None, learning_rate=0)
    prompts, replies = ["What does Ann like?"] * 2, ["Ann likes red, thank you.", "red"]
    merged, adapted = (hfkit.load_reward(str(path))(prompts, replies) for path in (folder, reward_dir))
    assert torch.allclose(merged, adapted, atol=1e-5)


def test_the_config_of_a_changed_folder_is_read_again(base_dir, tmp_path, monkeypatch):
    """Also under the same relative path in another working folder."""
    found = []
    for name, size in (("one", 32), ("other", 48)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        config = json.loads((base_dir / "config.json").read_text()) | {"hidden_size": size}
        Path("model").mkdir()
        Path("model", "config.json").write_text(json.dumps(config))
        found.append(cached_config("model", "main").hidden_size)
    Path("model", "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert [*found, cached_config("model", "main").hidden_size] == [32, 48, 64]
    assert cached_config("model", "main") is cached_config("model", "main")


def test_the_tokenizer_of_a_changed_folder_is_read_again(tokenizer_with):
    path = tokenizer_with()
    before = cached_tokenizer(path, "main", None)
    assert cached_tokenizer(path, "main", None) is before
    tokenizer_with(eos_token=before.pad_token, pad_token=before.eos_token)
    after = cached_tokenizer(path, "main", None)
    assert (after.eos_token, after.pad_token) == (before.pad_token, before.eos_token)


def test_one_load_shows_one_progress_bar(base_dir, tmp_path):
    folder = shutil.copytree(base_dir, tmp_path / "model")  # its files have not been checked yet
    shown = []

    def note(factory, args, kwargs):
        shown.append(factory is not logging.EmptyTqdm)
        return factory(*args, **kwargs)

    was_enabled = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    before = logging.set_tqdm_hook(note)
    try:
        hfkit.load_policy(str(folder))
        assert shown.count(True) == 1 and logging.is_progress_bar_enabled()
    finally:
        logging.set_tqdm_hook(before)
        if not was_enabled:
            logging.disable_progress_bar()
