"""The DPO stage: what it trains, against which reference, what it measures and saves, and what it refuses."""

import json
import math

import pytest
import torch
from config_problems import problems
from conftest import FACTS
from interruption import assert_same_run
from one_and_two import assert_same_training
from peft import PeftModel
from processes import launch
from quick import slow
from safetensors.torch import load_file
from small_models import model_of
from transformers import AutoModelForCausalLM

import hfkit
from hfkit.core.errors import ConfigError
from hfkit.models.quantization import quantization_state
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record, weights_hash
from hfkit.stages import dpo

RANKINGS = [
    {"prompt": f"What does {name} like?", "replies": [f"{name} likes {colour}.", colour, "No."], "scores": [3, 1, 2]}
    for name, colour in FACTS
]
BETTER_AND_WORSE = [(0, 1), (0, 2), (2, 1)]
"""The replies of the pairs of such a ranking."""


def samples_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture
def caught(monkeypatch):
    """The trainers of the runs within the test."""
    trainers = []

    class Caught(dpo.MicroBatchedDPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(dpo, "MicroBatchedDPOTrainer", Caught)
    return trainers


@pytest.mark.any_device
@pytest.mark.parametrize("loss", [math.log(2), slow(25.0)])
def test_at_learning_rate_0_the_loss_is_that_of_equal_models_and_the_kl_0(run_stage, tmp_path, loss):
    """-log sigmoid(0), and (0 - 1 / (2 beta))^2."""
    name = "sigmoid" if loss < 1 else "ipo"
    folder = run_stage("dpo", tmp_path / "run", learning_rate=0.0, loss_type=[name], max_steps=2)
    logged = [log for log in read_metrics(folder) if "loss" in log]
    assert [log["loss"] for log in logged] == pytest.approx([loss] * 2, rel=1e-6)
    assert [log["rewards/margins"] for log in logged] == pytest.approx([0.0] * 2, abs=1e-6)
    metrics = read_record(folder)["metrics"]
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["eval_margin"] == pytest.approx(0, abs=1e-6) and metrics["eval_kl"] == pytest.approx(0, abs=1e-5)
    assert [sample["before"] for sample in samples_of(folder)] == [sample["after"] for sample in samples_of(folder)]


@pytest.mark.any_device
def test_it_learns_what_is_preferred(run_stage, tmp_path):
    metrics = read_record(run_stage("dpo", tmp_path / "run", max_steps=20, learning_rate=5e-3))["metrics"]
    assert metrics["train_loss"] < 0.6 and metrics["eval_loss"] < 0.55
    assert metrics["eval_accuracy"] >= 0.95 and metrics["eval_margin"] > 0.3
    assert metrics["eval_margin"] == pytest.approx(metrics["eval_rewards/chosen"] - metrics["eval_rewards/rejected"])
    assert metrics["eval_kl"] != 0 and metrics["eval_length_dpo"] > 0 and metrics["eval_entropy_sft"] > 0
    for sample in samples_of(tmp_path / "run"):
        (message,) = sample["messages"]
        assert (
            message["role"] == "user" and message["content"] in sample["prompt"] and "What does" in message["content"]
        )


@pytest.mark.parametrize("changes", [{}, slow({"load_in_4bit": True})], ids=["whole base", "4-bit base"])
def test_only_the_adapter_is_trained_and_the_reference_has_the_same_base(
    run_stage, caught, base_dir, tmp_path, changes
):
    before = weights_hash(base_dir)
    folder = run_stage("dpo", tmp_path / "run", max_steps=2, **changes)
    policy, reference = caught[0].model, caught[0].ref_model
    assert not reference.training and not any(weight.requires_grad for weight in reference.parameters())
    ours, theirs = (dict(model.named_parameters()) for model in (policy, reference))
    assert ours.keys() == theirs.keys() and [*policy.peft_config] == [*reference.peft_config] == ["default"]
    adapter = {name for name in ours if ".lora_" in name}
    assert {name for name, weight in ours.items() if weight.requires_grad} == adapter
    start = load_file(read_record(folder)["lineage"][0]["path"] + "/adapter_model.safetensors")
    for name, weight in theirs.items():
        if name in adapter:
            assert torch.equal(weight, start[name.replace(".default", "")])
            assert ours[name].data_ptr() != weight.data_ptr() and ours[name].dtype == torch.float32
        else:
            assert ours[name].data_ptr() == weight.data_ptr()
    pairs = zip(quantization_state(policy), quantization_state(reference), strict=True)
    assert all(one is other for one, other in pairs)
    assert weights_hash(base_dir) == before
    changed = load_file(folder / "adapter_model.safetensors")
    assert any(not torch.equal(changed[name], start[name]) for name in start)


@pytest.mark.slow
def test_the_folder_is_one_adapter_that_plain_peft_reloads(run_stage, caught, base_dir, tmp_path):
    folder = run_stage("dpo", tmp_path / "run", max_steps=2, save_steps=2)
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert (folder / "checkpoint-2").is_dir() and not [*folder.glob("**/ref")]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder).eval()
    ids = torch.arange(20, 40).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, caught[0].model.eval()(ids).logits, rtol=0, atol=1e-6)


def test_a_full_model_has_its_own_reference(run_stage, caught, base_dir, tmp_path):
    folder = run_stage("dpo", tmp_path / "run", use_peft=None, model_name_or_path=str(base_dir), learning_rate=1e-4)
    start, trained = (load_file(one / "model.safetensors") for one in (base_dir, folder))
    kept = dict(caught[0].ref_model.named_parameters())
    assert all(torch.equal(kept[name], weight) for name, weight in start.items() if name in kept)
    assert all(not torch.equal(trained[name], start[name]) for name in start if "proj" in name)
    assert read_record(folder)["metrics"]["eval_loss"] < math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", slow("group_by_length")])
def test_rankings_are_their_pairs(run_stage, rows_file, tmp_path, strategy):
    settings = {"test_split_size": None, "max_steps": 3, "train_sampling_strategy": strategy}
    pairs = [
        {"prompt": row["prompt"], "chosen": row["replies"][better], "rejected": row["replies"][worse]}
        for row in RANKINGS
        for better, worse in BETTER_AND_WORSE
    ]
    folders = [
        run_stage("dpo", tmp_path / name, datasets=rows_file(rows, f"{name}.jsonl"), **settings)
        for name, rows in (("rankings", RANKINGS), ("pairs", pairs))
    ]
    assert_same_run(*folders)


@pytest.mark.slow
def test_held_out_samples_are_in_the_folder_and_on_the_card(run_stage, tmp_path):
    folder = run_stage("dpo", tmp_path / "run", max_steps=1, eval_prompts=2)
    samples = samples_of(folder)
    assert len(samples) == len({sample["prompt"] for sample in samples}) == 2
    assert samples[0].keys() == {"prompt", "messages", "before", "after"}
    assert "\nResponse before training:\n" in (folder / "README.md").read_text()
    without = run_stage("dpo", tmp_path / "without", max_steps=1, eval_prompts=0)
    assert samples_of(without) == [] and "eval_kl" not in read_record(without)["metrics"]


@pytest.mark.distributed
def test_two_processes_train_measure_and_sample_as_one_does(config_of, tmp_path):
    settings = {"test_split_size": 9, "gradient_accumulation_steps": 1, "save_strategy": "no"}
    dpo.main(config_of("dpo", tmp_path / "one", **settings, per_device_train_batch_size=4))
    launch(dpo.main, config_of("dpo", tmp_path / "two", **settings, per_device_train_batch_size=2))
    assert_same_training(tmp_path, "ddp", 5e-6)
    assert samples_of(tmp_path / "one") == samples_of(tmp_path / "two")


@pytest.mark.slow
def test_replies_are_sampled_to_prompts_that_leave_room_for_them(run_stage, rows_file, tokenizer, tmp_path, capsys):
    """Past the last of its learned positions GPT-2 would fail, after all of the training."""
    model_of("learned positions", len(tokenizer), spread=0.02).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    prompts = ["Who?", "What does Ann like? " * 8]
    rows = [{"prompt": f"{prompts[n % 2]} {n}", "chosen": "Ann likes red.", "rejected": "Bob."} for n in range(8)]
    settings = {"model_name_or_path": str(tmp_path / "gpt2"), "use_peft": None, "max_length": 128, "max_steps": 1}
    settings |= {"response_length": 32, "test_split_size": 4, "datasets": rows_file(rows), "save_strategy": "no"}
    folder = run_stage("dpo", tmp_path / "run", **settings)
    assert 0 < len(samples_of(folder)) < 4
    assert "held-out prompts leave no room for response_length=32" in capsys.readouterr().err


@pytest.mark.slow
def test_margins_without_effect_are_warned_of(run_stage, rows_file, tmp_path, capsys):
    rows = [{"prompt": "Who?", "chosen": f"Ann {n}.", "rejected": "Bob.", "margin": 1.0} for n in range(8)]
    run_stage("dpo", tmp_path / "run", datasets=rows_file(rows), test_split_size=None, max_steps=1)
    assert "the pairs have margins, which the losses of DPO do not use" in capsys.readouterr().err


@pytest.mark.slow
def test_from_python(data, sft_dir, tmp_path):
    keys = {
        "model_name_or_path": str(sft_dir),
        "datasets": [str(data / "pairs.jsonl")],
        "max_length": 64,
        "max_steps": 1,
    }
    folder = hfkit.dpo(output_dir=str(tmp_path / "run"), use_peft=True, loss_type="ipo", **keys)
    assert read_record(folder)["config"]["loss_type"] == ["ipo"]


@pytest.mark.slow
def test_precomputed_log_probabilities_of_the_reference_train_the_same(run_stage, tmp_path):
    options = {"max_steps": 2, "precompute_ref_log_probs": True, "logging_steps": 1}
    folders = [run_stage("dpo", tmp_path / "once", **options), run_stage("dpo", tmp_path / "each", max_steps=2)]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    metrics = [read_record(folder)["metrics"] for folder in folders]
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_precomputed_log_probabilities_are_never_those_of_other_settings(run_stage, tmp_path):
    """At the first step the policy is the reference: the loss is log 2, whatever a run before it has computed."""
    options = {"max_steps": 1, "precompute_ref_log_probs": True, "test_split_size": None, "eval_prompts": 0}
    run_stage("dpo", tmp_path / "before", **options)
    folder = run_stage("dpo", tmp_path / "after", **options, ld_alpha=0.5)
    assert read_metrics(folder)[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"loss_type": ["dpo"]}, "loss_type", "expected names of: sigmoid, hinge, ipo"),
        ({"loss_type": []}, "loss_type", "expected names of"),
        ({"loss_type": ["exo_pair"]}, "label_smoothing", "exo_pair needs it"),
        ({"label_smoothing": 0.1}, "label_smoothing", "only aot, aot_unpaired, exo_pair, robust use it"),
        ({"loss_type": ["robust"], "label_smoothing": 0.5}, "label_smoothing", "below 0.5"),
        ({"beta": 0.0}, "beta", "must be above 0"),
        ({"loss_weights": [1.0, 2.0]}, "loss_weights", "expected 1, one for each of: sigmoid"),
        ({"loss_type": ["aot"], "f_divergence_type": "js_divergence"}, "f_divergence_type", "only these losses"),
        ({"f_divergence_type": "kl"}, "f_divergence_type", "forward_kl"),
        ({"loss_type": ["aot"], "use_weighting": True}, "use_weighting", "remove it"),
        ({"loss_type": ["sft"], "max_tokens_per_micro_batch": 64}, "max_tokens_per_micro_batch", "has no effect"),
        ({"f_alpha_divergence_coef": 0.9}, "f_alpha_divergence_coef", "without f_divergence_type: alpha_divergence"),
        ({"discopop_tau": 0.5}, "discopop_tau", "without loss_type: discopop"),
        ({"loss_type": ["discopop"], "discopop_tau": 0.0}, "discopop_tau", "must be above 0"),
        ({"precompute_ref_batch_size": 2}, "precompute_ref_batch_size", "without precompute_ref_log_probs"),
        (
            {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 0},
            "precompute_ref_batch_size",
            "must be above 0",
        ),
        ({"ld_alpha": 1.5}, "ld_alpha", "must be from 0 to 1"),
        ({"loss_type": ["sft"], "ld_alpha": 0.5}, "ld_alpha", "sft does not use it"),
        ({"loss_type": ["ipo", "sft"], "loss_weights": [1.0, -1.0]}, "loss_weights", "must not be negative"),
        ({"loss_weights": [0.0]}, "loss_weights", "nothing would be trained"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor", "set label_smoothing"),
        ({"lora_dropout": 0.1}, "lora_dropout", "set 0"),
        ({"rollout_engine": "vllm"}, "rollout_engine", "unknown"),
        ({"padding_free": True}, "padding_free", "remove it"),
        ({"use_liger_kernel": True}, "use_liger_kernel", "remove it"),
        ({"sync_ref_model": True}, "sync_ref_model", "remove it"),
        ({"truncation_mode": "keep_end"}, "truncation_mode", "remove it"),
        ({"eval_prompts": -1}, "eval_prompts", "must not be negative"),
        ({"temperature": 0.0}, "temperature", "must be above 0"),
        ({"response_length": 0}, "response_length", "must be"),
        ({"response_length": 500}, "response_length", "-> it exceeds the model's context of 256 tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_refused(config_of, tmp_path, changes, key, remedy):
    found = problems(config_of, tmp_path, "dpo", **changes)
    assert found.keys() == {key} and remedy in found[key]


def test_all_problems_are_reported_at_once(config_of, tmp_path):
    with pytest.raises(ConfigError) as error:
        config_of("dpo", tmp_path, loss_type=["dpo"], beta=-1.0, sync_ref_model=True)
    assert {problem.key for problem in error.value.problems} == {"loss_type", "beta", "sync_ref_model"}
