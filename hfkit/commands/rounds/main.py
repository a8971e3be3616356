"""Runs a pipeline in rounds: sample from the last policy, have the responses judged, train on all judgements.

This is iterated RLHF as in InstructGPT (arXiv 2203.02155, section 3.1) and Llama 2 (arXiv 2307.09288, section 3.2.3).
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from hfkit.commands.label.export import RANKINGS_FILE
from hfkit.commands.label.main import judge_rows
from hfkit.commands.rounds.changed_keys import changed_key_problems
from hfkit.commands.rounds.plan import RoundsPlan, plan_rounds, with_keys
from hfkit.commands.rounds.results import print_rounds, write_rounds
from hfkit.config.fields import DatasetEntry
from hfkit.config.parsing import group_flags
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.core.files import write_json_lines
from hfkit.data.comparisons import COMPARISONS
from hfkit.data.source_rows import source_form
from hfkit.evaluation.sample import SAMPLES, sample
from hfkit.records.record import read_record
from hfkit.stages.pipeline import run_parsed
from hfkit.stages.pipeline_file import Pipeline

PAIRS = "pairs.jsonl"


def run_rounds(pipeline: Pipeline, root: Path, flags: list[str]) -> Path:
    """Run the stages before the rounds, then the rounds, and evaluate after each; return the folder.

    Raises:
        ConfigError: before anything runs, with all problems.
    """
    plan = plan_rounds(pipeline, root, flags)
    if problems := changed_key_problems(plan):
        raise ConfigError(problems)
    for number, (stage, argv) in enumerate(plan.before.items(), 1):
        say(f"== before the rounds, {number}/{len(plan.before)}: {stage}")
        run_parsed(stage, argv, pipeline.stages[stage])
    rounds: list[dict] = []
    for number in range(1, plan.rounds.count + 1):
        rounds.append(run_round(plan, number, rounds))
        result = write_rounds(plan, rounds)
    print_rounds(result, root)
    return root


def run_round(plan: RoundsPlan, number: int, before: list[dict]) -> dict:
    """Run a round and return its number, policy, reward model and labels.

    Args:
        before: what this returned for earlier rounds.
    """
    folder, title = plan.root / f"round_{number}", f"== round {number}/{plan.rounds.count}:"
    policy = before[-1]["policy"] if before else plan.start
    say(f"{title} sample from {policy}")
    seed = plan.sample.seed + number - 1  # other prompts and responses in each round
    config = replace(plan.sample, models=[f"policy={policy}"], seed=seed, output_dir=str(folder / "samples"))
    sample(config, keep=True)
    say(f"{title} label")
    rows = [DatasetEntry(path=str(folder / "samples" / SAMPLES))]
    is_judged = read_record(folder / plan.reward) is not None  # then a judge that has changed adds no judgements
    label = replace(plan.label, datasets=rows, output_dir=str(folder / "labels"), until_complete=True, export=is_judged)
    counts = judge_rows(label)["counts"]
    if not counts["rankings"]:
        raise HfkitError(
            f"round {number}: the judge ranked no response above another: raise num_samples or max_prompts"
        )
    labels = folder / "labels" / RANKINGS_FILE
    if plan.own_rows and source_form(DatasetEntry(**plan.own_rows[0]), COMPARISONS) == "preference":
        labels = write_pairs(labels)
    files = [*(one["labels"] for one in before), str(labels)]
    rows = [*plan.own_rows, *({"path": path} for path in files)]
    say(f"{title} {plan.reward}")
    run_stage_of(plan, plan.reward, number, datasets=rows)
    say(f"{title} {plan.policy}")
    scorer = next(one.key for one in STAGES[plan.policy].inputs if plan.reward in one.stages)
    later = {"model_name_or_path": policy, "model_revision": "main"} if before else {}
    run_stage_of(plan, plan.policy, number, **later, **{scorer: str(folder / plan.reward)})
    return {
        "round": number,
        "policy": str(folder / plan.policy),
        "reward_model": str(folder / plan.reward),
        "labels": str(labels),
        "counts": counts,
    }


def write_pairs(rankings: Path) -> Path:
    """Write the pairs of rankings next to them, since pairs and rankings cannot be mixed; return the file."""
    rows = [json.loads(line) for line in rankings.read_text(encoding="utf-8").split("\n") if line]
    pairs = []
    for row in rows:
        replies, ranks = row.pop("replies"), row.pop("ranks")
        for (one, rank), (other, other_rank) in combinations(zip(replies, ranks, strict=True), 2):
            if rank != other_rank:
                chosen, rejected = (one, other) if rank < other_rank else (other, one)
                pairs.append({**row, "chosen": chosen, "rejected": rejected})
    write_json_lines(rankings.with_name(PAIRS), pairs)
    return rankings.with_name(PAIRS)


def run_stage_of(plan: RoundsPlan, stage: str, number: int, **keys: object) -> None:
    """Run a stage of a round, with `keys` in its command line; it is skipped if it is done, as in a pipeline."""
    argv = plan.argvs[stage]
    pushed_to = dict(group_flags(argv, [])).get("hub_model_id")
    if pushed_to:
        keys["hub_model_id"] = f"{' '.join(pushed_to)}-round-{number}"
    keys["output_dir"] = str(plan.root / f"round_{number}" / stage)
    run_parsed(stage, with_keys(argv, **keys), plan.pipeline.stages[stage])
