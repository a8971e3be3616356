"""DPO, GRPO and RLOO like PPO: one SFT adapter, the same commands, and a chain of stages."""

import json

import pytest
import torch
from model_outputs import logits, logits_at
from pipelines import write_pipeline
from quick import mostly_slow

from hfkit.cli import main
from hfkit.config.parsing import group_flags
from hfkit.config.registry import STAGES
from hfkit.core.files import read_json_mapping
from hfkit.records.record import read_record, weights_hash
from hfkit.rlhf.roles import load_scored_policy
from hfkit.stages.pipeline import stage_flags
from hfkit.stages.pipeline_file import read_pipeline

METHODS = ("dpo", "grpo", "rloo")


@pytest.fixture(scope="module")
def chain(tmp_path_factory, data):
    """Run a pipeline once in which PPO, GRPO and RLOO start from DPO; return its file."""
    folder = tmp_path_factory.mktemp("chain")
    changes = {stage: {"test_split_size": 4} for stage in ("grpo", "rloo")}
    changes |= {"dpo": {"max_steps": 2, "save_steps": 2}, "ppo": {"total_episodes": 4}}
    pipeline = write_pipeline(folder, data, ("tokenizer", "pretrain", "sft", "reward", *METHODS, "ppo"), **changes)
    assert main(["run", str(pipeline)]) == 0
    return pipeline


@pytest.fixture(params=METHODS)
def run(chain, request):
    """The folder of one method's run."""
    return chain.parent / "runs" / request.param


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "start"), [("dpo", "sft"), ("ppo", "dpo"), ("grpo", "dpo"), ("rloo", "dpo")])
def test_each_starts_from_the_one_before(chain, stage, start):
    root = chain.parent / "runs"
    parents = {one["role"]: one for one in read_record(root / stage)["lineage"]}
    assert (parents["start"]["stage"], parents["start"]["path"]) == (start, str(root / start))
    assert parents["start"]["weights_sha256"] == weights_hash(root / start)
    assert parents.keys() == ({"start"} if stage == "dpo" else {"start", "reward"})


@pytest.fixture(scope="module")
def dpo_dir(run_stage, tmp_path_factory):
    return run_stage("dpo", tmp_path_factory.mktemp("dpo") / "run", max_steps=2)


@pytest.mark.parametrize("stage", mostly_slow(["ppo", "grpo", "rloo"], ["grpo"]))
def test_the_reference_after_dpo_is_what_dpo_made_on_the_base_of_all(dpo_dir, sft_dir, stage, config_of, tmp_path):
    loaded = load_scored_policy(config_of(stage, tmp_path, model_name_or_path=str(dpo_dir)))
    assert torch.equal(logits(loaded.reference), logits_at(dpo_dir))
    assert not torch.equal(logits(loaded.reference), logits_at(sft_dir))
    roles = (loaded.policy, loaded.reference, loaded.reward)
    assert len({role.get_base_model().model.embed_tokens.weight.data_ptr() for role in roles}) == 1


def test_a_method_starts_from_sft_where_its_yaml_says_so(tmp_path, data):
    sft = str(tmp_path / "runs" / "sft")
    path = write_pipeline(tmp_path, data, ("sft", "dpo", "grpo", "rloo"), grpo={"model_name_or_path": sft})
    flags = stage_flags(read_pipeline(path), tmp_path / "runs", [])
    starts = {stage: dict(group_flags(argv, [])).get("model_name_or_path") for stage, argv in flags.items()}
    assert starts == {"sft": None, "dpo": [sft], "grpo": None, "rloo": [str(tmp_path / "runs" / "dpo")]}


@pytest.mark.slow
def test_plan_data_check_and_lineage_know_it(chain, run, hfkit):
    models = ["--model_name_or_path", chain.parent / "runs" / "sft"]
    models += ["--reward_model_path", chain.parent / "runs" / "reward"] * (run.name != "dpo")
    planned = hfkit("plan", chain.parent / f"{run.name}.yaml", *models, "--memory", "8")
    assert f"{run.name} " in planned and "reference" in planned
    checked = hfkit(
        "data", "check", chain.parent / f"{run.name}.yaml", *models, *["--max_longer", "1"] * (run.name == "dpo")
    )
    assert "rows" in checked and "kept" in checked
    shown = hfkit("lineage", run)
    assert shown.startswith(f"{run.name}: ") and "start: " in shown


@pytest.mark.slow
def test_its_card_can_be_pushed(run, hfkit):
    card = (run / "README.md").read_text()
    assert f"- {run.name}\n" in card and "- trl\n" in card and "apply_chat_template" in card
    assert "before" in card and f"eval_entropy_{run.name}" in card
    assert "KL to the reference model on held-out prompts" in card and "SFT model" not in card
    assert run.name == "dpo" or "reward_last" in card
    printed = hfkit("push", run, "ann/model", "--dry_run", "--with_base", "ann/base")
    assert "adapter_model.safetensors" in printed and "hfkit.json" in printed


@pytest.mark.slow
def test_report_shows_its_curves(chain, run, hfkit):
    hfkit("report", run)
    page = (run / "report.html").read_text()
    assert STAGES[run.name].title in page and STAGES[run.name].loss_label[1] in page
    names = {path.name for path in (run / "report").glob("*.png")}
    assert f"{run.name}-loss.png" in names
    assert run.name == "dpo" or {f"{run.name}-entropy.png", f"{run.name}-response-length.png"} <= names


@pytest.mark.slow
def test_evaluate_chat_and_merge(run, hfkit, tmp_path):
    hfkit("evaluate", run, "--max_prompts", "2", "--response_length", "4")
    evaluation = read_json_mapping(run / "evaluation.json")
    assert evaluation["stage"] == run.name and "kl" in evaluation["metrics"]
    assert hfkit("chat", run, "--prompt", "What does Ann like?", "--length", "4")
    hfkit("merge", run, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_arena_compares_them(chain, hfkit, data, tmp_path):
    root = chain.parent / "runs"
    models = [f"{name}={root / name}" for name in ("sft", *METHODS)]
    sizes = ["--max_prompts", "4", "--response_length", "4", "--diversity_prompts", "2"]
    judge = ["--judge", "reward", "--reward_model", root / "reward", "--allow_training_judge"]
    hfkit("arena", *models, "--prompts", data / "prompts.jsonl", *judge, *sizes, "--output_dir", tmp_path / "arena")
    found = json.loads((tmp_path / "arena" / "arena.json").read_text())
    assert [model["name"] for model in found["models"]] == ["sft", *METHODS]
