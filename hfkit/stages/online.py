"""The GRPO and RLOO stages, and what PPO shares with them: prompts, reward probes, held-out comparison."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed

from hfkit.config.online import OnlineConfig
from hfkit.config.stages import GRPOConfig, RLOOConfig
from hfkit.core.console import say
from hfkit.core.device import prepare_device
from hfkit.data.forms import PROMPTS, encode_prompts
from hfkit.data.splits import load_splits, report_splits
from hfkit.models.adapters import record_base
from hfkit.models.end_token import warn_of_end_token
from hfkit.models.generation import stop_ids
from hfkit.models.loading import without_expert_dropout
from hfkit.models.saving import save_model
from hfkit.models.sft_loss import router_arguments
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.records.metrics_file import read_metrics
from hfkit.rlhf.forward import Model
from hfkit.rlhf.monitor import mean_metrics
from hfkit.rlhf.policy_evaluation import compare_policies, sample_lines, save_with_samples
from hfkit.rlhf.reward_quality import probe_rewards, report_reward_accuracy
from hfkit.rlhf.rewards import Scorer, load_scorer, scoring_tokenizer, validate_rendering
from hfkit.rlhf.roles import load_scored_policy
from hfkit.rlhf.trainer_checks import require_full_groups
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import keep_trainable_dtype, set_callbacks, train, trainer_arguments
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.run import Run
from hfkit.training.sharding import CollectiveSave
from hfkit.training.training_end import published_step

SHOWN_REPLIES = 8


@dataclass
class Prompts:
    """The encoded prompts of a stage, and its tokenizers.

    Attributes:
        tokenizer: the policy's.
        reader: the reward model's, which is `tokenizer` if both are equal; None without a reward model.
        train: rows of `encode_prompts`.
        test: held-out rows, or None.
        stats: counts of rows, by split.
    """

    tokenizer: PreTrainedTokenizerBase
    reader: PreTrainedTokenizerBase | None
    train: Dataset
    test: Dataset | None
    stats: dict[str, Any]


def read_prompts(config: OnlineConfig, stage: str) -> Prompts:
    """Load and encode the prompts of a config.

    Raises:
        HfkitError: the reward model's tokenizer cannot render a prompt.
    """
    tokenizer = load_stage_tokenizer(config)
    train_rows, test_rows, stats = load_splits(config, PROMPTS, config.reward_columns)
    train_rows = encode_prompts(train_rows, tokenizer, stats["train"], config)
    if test_rows is not None:
        test_rows = encode_prompts(test_rows, tokenizer, stats["test"], config)
    reader = scoring_tokenizer(config, tokenizer)
    if reader not in (None, tokenizer):
        validate_rendering(reader, train_rows[0])
        say(
            f"{stage}: the reward model has another tokenizer or chat template: responses are rendered with it to be "
            "scored"
        )
    return Prompts(tokenizer, reader, train_rows, test_rows, stats)


def train_in_groups(config: GRPOConfig | RLOOConfig, stage: str, trainer_class: Callable[..., Any]) -> Path:
    """Train all weights of the SFT model, or a LoRA adapter on it, by GRPO or RLOO; return the run's folder.

    Args:
        trainer_class: of `hfkit.rlhf.online_trainer`.
    """
    set_seed(config.seed)
    prepare_device(config)
    config = without_expert_dropout(config)
    prompts = read_prompts(config, stage)
    require_full_groups(len(prompts.train), config)
    run = open_run(stage, config, prompts.stats)
    if run.is_done:
        return run.folder
    with run.training():
        report_splits(run, prompts.stats)
        # Model
        config = plan_run(run)
        report_reward_accuracy(config)
        loaded, tokenizer = load_scored_policy(config), prompts.tokenizer
        warn_of_end_token(loaded.policy, tokenizer, config)
        run.note(**record_base(loaded.policy))
        stop_token_ids = stop_ids(loaded.policy.generation_config, tokenizer)
        scorer = load_scorer(config, tokenizer, prompts.reader, loaded.reward, stop_token_ids)
        # Trainer
        with keep_trainable_dtype(loaded.policy):
            trainer = trainer_class(
                model=loaded.policy,
                ref_model=loaded.reference,
                scorer=scorer,
                args=trainer_arguments(config, **router_arguments(loaded.policy, config)),
                train_dataset=prompts.train,
                eval_dataset=prompts.test,
                processing_class=left_padded(tokenizer),
            )
        if loaded.reward is not None:
            loaded.reward.to(trainer.accelerator.device)
            note_probes(run, trainer.model, scorer, prompts, trainer.args)
        save = partial(save_model, trainer.model, tokenizer)
        set_callbacks(trainer, run, CollectiveSave(trainer, save))
        facts = train(trainer, run) | {"rollout_engine": trainer.engine.name}
        # Save
        metrics, samples = held_out_comparison(trainer, run, trainer.model, loaded.reference, scorer, prompts)
        save = partial(save_with_samples, trainer.model, tokenizer, samples)
        run.publish(CollectiveSave(trainer, save), metrics, **facts)
    return run.folder


def note_probes(run: Run, policy: Model, scorer: Scorer, prompts: Prompts, args) -> None:
    """Record the rewards of worthless responses; a resumed run keeps those that it has recorded at its start."""
    known = run.before.get("reward_probes") if run.checkpoint else None
    run.note(reward_probes=known or probe_rewards(policy, scorer, prompts.tokenizer, prompts.train, args))


def held_out_comparison(
    trainer, run: Run, policy: Model, reference: Model, scorer: Scorer, prompts: Prompts
) -> tuple[dict[str, float], list[dict]]:
    """Return the metrics of a trained policy for its record, and samples of responses before and after training."""
    metrics, samples = trend(run.folder, published_step(trainer)), []
    if prompts.test is not None:
        models = (policy, reference, prompts.tokenizer, scorer)
        held_out, samples = compare_policies(*models, prompts.test, trainer.args, run.stage)
        metrics |= held_out
        before, after = (held_out[f"eval_reward_{name}"] for name in ("sft", run.stage))
        rewards = f"reward {before:.3f} of the SFT model, {after:.3f} after training"
        say(f"{run.stage}: held out: {rewards}, KL {held_out['eval_kl']:.2f}")
        for sample in samples[:SHOWN_REPLIES]:
            say(sample_lines(sample))
    return metrics, samples


def left_padded(tokenizer):
    """Return a copy of a tokenizer that pads on the left; the original keeps its side, and is saved."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def trend(folder: Path, last_step: int) -> dict[str, float]:
    """Return the mean reward and KL (nats) of the first and the last tenth of the updates in `metrics.jsonl`.

    Args:
        last_step: the step of the published weights; later updates are left out.
    """
    updates = [row for row in read_metrics(folder) if "objective/scores" in row and row["step"] <= last_step]
    if not updates:
        return {}
    names = {"reward": "objective/scores", "kl": "objective/kl"}
    names = {name: logged for name, logged in names.items() if logged in updates[0]}  # without a KL term, no KL
    rows = [{name: row[logged] for name, logged in names.items()} for row in updates]
    tenth = max(len(rows) // 10, 1)
    means = {"first": mean_metrics(rows[:tenth]), "last": mean_metrics(rows[-tenth:])}
    trends = {f"{name}_{part}": means[part][name] for name in names for part in means}
    return {**trends, "kl_max": max(row["kl"] for row in rows)} if "kl" in names else trends
