"""Architectures without a classifier in Transformers: reward models with its generic head, and values for PPO."""

import json
import re
from itertools import product

import pytest
import torch
from forks import run, run_without_hfkit
from model_outputs import last_hidden, logits_at
from quick import mostly_slow
from small_models import REGISTERS_CLASSIFIERS
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import hfkit
from hfkit.cli import main
from hfkit.commands.merge import merge
from hfkit.core.errors import ConfigError
from hfkit.models.classifiers import has_classifier, provide_classifier
from hfkit.records.record import read_record

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
MODELS = {
    "granite": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
STILL = {"learning_rate": 1e-9, "max_steps": 1}
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
made = pytest.mark.skipif(not REGISTERS_CLASSIFIERS, reason="Transformers before 5.19 registers no further classes")


@pytest.fixture
def model_of(tokenizer, tmp_path):
    """model_of(model_type) -> a tiny random language model."""

    def make(model_type: str, **shape) -> str:
        torch.manual_seed(0)
        shape = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **shape}
        config = AutoConfig.for_model(model_type, **shape, pad_token_id=tokenizer.pad_token_id)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / model_type)
        tokenizer.save_pretrained(tmp_path / model_type)
        return str(tmp_path / model_type)

    return make


@made
@pytest.mark.parametrize("model_type", mostly_slow(MODELS, []))
def test_a_reward_model_goes_through_the_chain(model_type, model_of, run_stage, tmp_path):
    base = model_of(model_type, **MODELS[model_type])
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, learning_rate=1e-2)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), **STILL)
    loaded = hfkit.load_reward(str(reward))
    assert torch.allclose(last_hidden(loaded.model), last_hidden(hfkit.load_policy(str(sft))[0]), atol=1e-5)
    again = run_stage("reward", tmp_path / "again", model_name_or_path=str(reward), **STILL)
    merged = merge(str(again), tmp_path / "merged", "float32")
    wanted = loaded(["Who?", "What does Ann like?"], ["Ann likes red.", "no"])
    assert wanted[0] != wanted[1]
    for folder in (again, merged):
        assert torch.allclose(hfkit.load_reward(str(folder))(["Who?"], ["Ann likes red."]), wanted[:1], atol=1e-5)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, learning_rate=1e-9)
    assert torch.allclose(logits_at(ppo), logits_at(sft), atol=1e-5)


@pytest.mark.slow
@made
@pytest.mark.parametrize(("model_type", "use_peft"), [*product(MODELS, (True, None))])
def test_functions_alone_train_a_policy_and_its_values(model_type, use_peft, model_of, run_stage, tmp_path):
    base = model_of(model_type, **MODELS[model_type])
    settings = {"model_name_or_path": base, "use_peft": use_peft, **FUNCTIONS}
    still = run_stage("ppo", tmp_path / "still", **settings, learning_rate=1e-9)
    assert torch.allclose(logits_at(still), logits_at(base), atol=1e-5)
    moved = run_stage("ppo", tmp_path / "moved", **settings, learning_rate=1e-2)
    assert not torch.allclose(logits_at(moved), logits_at(base), atol=1e-3)


@made
def test_a_recurrent_backbone_has_values_but_no_scores(model_of, config_of, run_stage, tmp_path):
    base = model_of("mamba", state_size=8)
    with pytest.raises(ConfigError, match="a reward model is a sequence classifier: Transformers has none for mamba"):
        config_of("reward", tmp_path / "reward", model_name_or_path=base, use_peft=None)
    settings = {"model_name_or_path": base, "use_peft": None, **FUNCTIONS}
    assert torch.allclose(
        logits_at(run_stage("ppo", tmp_path / "ppo", **settings, learning_rate=1e-9)), logits_at(base), atol=1e-5
    )


@made
@pytest.mark.parametrize("is_merged", mostly_slow([False, True], [False]))
def test_the_code_of_the_card_opens_it_without_hfkit(is_merged, model_of, run_stage, tmp_path):
    folder = run_stage("reward", tmp_path / "reward", model_name_or_path=model_of("granitemoe", **MODELS["granitemoe"]))
    if is_merged:
        folder = merge(str(folder), tmp_path / "merged", "float32")
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    assert (
        "class GraniteMoeForSequenceClassification(GenericForSequenceClassification, GraniteMoePreTrainedModel)" in code
    )
    question, answer = "What is the capital of France?", "It is Paris."
    wanted = hfkit.load_reward(str(folder))([question], [answer]).item()
    run_without_hfkit(f"{code}\nassert abs(model(**inputs).logits.item() - {wanted}) < 1e-4", cwd=tmp_path)


@pytest.mark.slow
@made
def test_every_verb_reads_it(model_of, run_stage, data, tmp_path, capsys):
    base = model_of("granite")
    adapter = run_stage("reward", tmp_path / "reward", model_name_or_path=base, **STILL)
    accuracy = read_record(adapter)["metrics"]["eval_accuracy"]
    for folder in (adapter, merge(str(adapter), tmp_path / "merged", "float32")):
        rows = [] if folder == adapter else ["--datasets", str(data / "pairs.jsonl")]
        out = tmp_path / f"{folder.name}-evaluated"
        assert main(["evaluate", str(folder), "--output_dir", str(out), *rows]) == 0
        metrics = json.loads((out / "evaluation.json").read_text())["metrics"]
        assert folder != adapter or metrics["accuracy"] == pytest.approx(accuracy)
        judge = ["--judge", "reward", "--reward_model", str(folder), "--prompts", str(data / "prompts.jsonl")]
        few = ["--max_prompts", "2", "--response_length", "4", "--diversity_prompts", "1", "--diversity_samples", "2"]
        out = tmp_path / f"{folder.name}-arena"
        assert main(["arena", f"one={base}", f"two={base}", *judge, *few, "--output_dir", str(out)]) == 0
        assert (out / "arena.json").is_file()
        capsys.readouterr()
        assert main(["chat", str(folder), "--prompt", "Hi"]) == 1
        assert "is a classifier, such as a reward model" in capsys.readouterr().err
    assert main(["push", str(folder), "ann/merged", "--dry_run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.skipif(REGISTERS_CLASSIFIERS, reason="Transformers since 5.19 registers further classes")
@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_without_one_its_stages_are_refused(stage, model_of, config_of, tmp_path):
    settings = FUNCTIONS if stage == "ppo" else {}
    with pytest.raises(ConfigError, match="is a sequence classifier: Transformers has none for granite"):
        config_of(stage, tmp_path / "out", model_name_or_path=model_of("granite"), **settings)


def test_a_classifier_of_transformers_is_left_alone():
    config = AutoConfig.for_model("llama", **SHAPE)
    assert provide_classifier(config).__module__.startswith("transformers.")
    assert type(AutoModelForSequenceClassification.from_config(config)).__name__ == "LlamaForSequenceClassification"
    assert has_classifier(config)
    assert not has_classifier(AutoConfig.for_model("mllama"))


@pytest.mark.parametrize(("model_type", "has_score"), [("gpt2", True), ("ctrl", False)])
def test_a_classifier_needs_a_score_head(model_type, has_score):
    config = AutoConfig.for_model(model_type, n_embd=32, dff=64, n_layer=2, n_head=2, vocab_size=64)
    assert has_classifier(config) == has_score


@pytest.mark.slow
def test_the_other_architectures_are_not_imported():
    code = """
import sys
from transformers import LlamaConfig
from hfkit.models.classifiers import provide_classifier
provide_classifier(LlamaConfig())
print(sum(name.startswith("transformers.models.") and ".configuration_" in name for name in sys.modules))
"""
    assert int(run(code).stdout) < 40
