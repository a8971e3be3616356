"""hfkit ppo configs/quickstart/ppo.yaml

PPO on prompts, as text or conversations, with rewards from a reward model, from functions, or from both. The KL
reference is the SFT model that the policy starts from; the value model starts from the reward model.
"""

import copy
import time
from functools import partial
from pathlib import Path

from transformers import set_seed

from hfkit.config.stages import PPOConfig
from hfkit.core.console import say, warn
from hfkit.core.device import prepare_device
from hfkit.core.interrupts import defer_signals
from hfkit.data.forms import PROMPTS, encode_prompts
from hfkit.data.splits import load_splits, report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.generation import stop_ids
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.records.metrics_file import read_metrics
from hfkit.rlhf import PPOTrainer
from hfkit.rlhf.monitor import mean_metrics
from hfkit.rlhf.policy_evaluation import compare_policies, save_with_samples
from hfkit.rlhf.ptx import load_ptx
from hfkit.rlhf.reward_quality import probe_rewards, report_reward_accuracy
from hfkit.rlhf.rewards import initial_normalizer, load_scorer, scoring_tokenizer, validate_rendering
from hfkit.rlhf.roles import load_roles
from hfkit.rlhf.trainer_checks import require_full_batch
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import (
    best_checkpoint_facts,
    correct_best_checkpoint,
    has_lost_patience,
    published_step,
    require_planned_end,
    set_callbacks,
    trainer_arguments,
)
from hfkit.training.memory.checkpointing import plan_run
from hfkit.training.sharding import CollectiveSave

SHOWN_SAMPLES = 8


@push_when_done
def main(config: PPOConfig) -> Path:
    """Train the policy, or a LoRA adapter on the SFT model, and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    # Data
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, PROMPTS, config.reward_columns)
    train_rows = encode_prompts(train_rows, tokenizer, stats["train"], config)
    require_full_batch(len(train_rows), config)
    if test_rows is not None:
        test_rows = encode_prompts(test_rows, tokenizer, stats["test"], config)
    reader = scoring_tokenizer(config, tokenizer)
    if reader not in (None, tokenizer):
        validate_rendering(reader, train_rows[0])
        say("ppo: the reward model has another tokenizer or chat template: responses are rendered with it to be scored")
    ptx_rows, ptx_stats = load_ptx(config, tokenizer, stats.get("test"))
    stats |= ptx_stats
    run = open_run("ppo", config, stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, stats)
        # Model
        config = plan_run(run)
        report_reward_accuracy(config)
        roles = load_roles(config)
        run.note(**record_base(roles.policy))
        stop_token_ids = stop_ids(roles.policy.generation_config, tokenizer)
        scorer = load_scorer(config, tokenizer, reader, roles.reward, stop_token_ids)
        # Trainer
        trainer = PPOTrainer(
            args=trainer_arguments(config),
            processing_class=left_padded(tokenizer),
            model=roles.policy,
            ref_model=roles.reference,
            reward_model=roles.reward,
            value_model=roles.value,
            train_dataset=train_rows,
            eval_dataset=test_rows if test_rows is not None else train_rows.select([0]),
            scorer=scorer,
            normalizer=initial_normalizer(config),
            ptx_rows=ptx_rows,
        )
        policy = trainer.policy_model
        if roles.reward is not None:
            known = run.before.get("reward_probes") if run.checkpoint else None
            run.note(reward_probes=known or probe_rewards(policy, scorer, tokenizer, train_rows, trainer.args))
        set_callbacks(trainer, run, CollectiveSave(trainer, partial(save_model, policy, tokenizer), policy))
        facts = train_policy(trainer, run)
        # Save
        metrics, samples = trend(run.folder, published_step(trainer)), []
        if test_rows is not None:
            models = (roles.policy, roles.reference, scorer, tokenizer)
            held_out, samples = compare_policies(*models, test_rows, trainer.args, run.stage)
            metrics |= held_out
            for sample in samples[:SHOWN_SAMPLES]:
                say(f"  {sample['prompt']!r}\n    before: {sample['before']!r}\n    after:  {sample['after']!r}")
        save = partial(save_with_samples, policy, tokenizer, samples)
        run.publish(CollectiveSave(trainer, save, policy), metrics, **facts)
    return run.folder


def left_padded(tokenizer):
    """Return a copy of a tokenizer that pads on the left; the original is saved and keeps its padding side."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def train_policy(trainer, run) -> dict:
    """Run PPO and resume from the run's last complete checkpoint, if any.

    Returns:
        facts for the record: steps (updates), best_step and best_metric with `load_best_model_at_end`, episodes,
        rollout_engine, train_seconds, and `stopped`, the reason if it stopped early.
    """
    correct_best_checkpoint(run)
    with defer_signals():
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    require_planned_end(trainer, bool(trainer.stopped) or has_lost_patience(trainer))
    run.started -= trainer.seconds_before
    facts = {
        "steps": trainer.state.global_step,
        **best_checkpoint_facts(trainer),
        "episodes": trainer.state.episode,
        "rollout_engine": trainer.engine.name,
        "train_seconds": round(time.time() - trainer.started, 2),
    }
    if trainer.stopped:
        warn(trainer.stopped)
        facts["stopped"] = trainer.stopped
    return facts


def trend(folder: Path, last_step: int) -> dict[str, float]:
    """Return the mean reward and KL (nats) of the first and the last tenth of the updates in `metrics.jsonl`.

    Args:
        last_step: step of the published weights; what was sampled after it is left out.
    """
    updates = [row for row in read_metrics(folder) if "objective/scores" in row and row["step"] <= last_step]
    if not updates:
        return {}
    rows = [{"reward": row["objective/scores"], "kl": row["objective/kl"]} for row in updates]
    tenth = max(len(rows) // 10, 1)
    means = {"first": mean_metrics(rows[:tenth]), "last": mean_metrics(rows[-tenth:])}
    trends = {f"{name}_{part}": means[part][name] for name in ("reward", "kl") for part in means}
    return {**trends, "kl_max": max(row["kl"] for row in rows)}
