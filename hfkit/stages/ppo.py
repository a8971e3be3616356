"""hfkit ppo configs/quickstart/ppo.yaml

PPO on prompts, as text or conversations, with rewards from a reward model, from functions, or from both. The KL
reference is the SFT model that the policy starts from; the value model starts from the reward model.
"""

import time
from functools import partial
from pathlib import Path

from transformers import set_seed

from hfkit.config.stages import PPOConfig
from hfkit.core.device import prepare_device
from hfkit.core.interrupts import defer_signals
from hfkit.data.splits import report_splits
from hfkit.hub.push_to_hub import push_when_done
from hfkit.models.adapters import record_base
from hfkit.models.end_token import warn_of_end_token
from hfkit.models.generation import stop_ids
from hfkit.models.saving import save_model
from hfkit.rlhf import PPOTrainer
from hfkit.rlhf.policy_evaluation import save_with_samples
from hfkit.rlhf.ptx import load_ptx
from hfkit.rlhf.reward_quality import report_reward_accuracy
from hfkit.rlhf.rewards import initial_normalizer, load_scorer
from hfkit.rlhf.roles import load_roles
from hfkit.rlhf.trainer_checks import require_full_batch
from hfkit.stages.online import held_out_comparison, left_padded, note_probes, read_prompts
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import correct_best_checkpoint, set_callbacks, trainer_arguments
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.sharding import CollectiveSave
from hfkit.training.training_end import end_facts, has_lost_patience, require_planned_end


@push_when_done
def main(config: PPOConfig) -> Path:
    """Train the policy, or a LoRA adapter on the SFT model, and return the run's folder."""
    set_seed(config.seed)
    prepare_device(config)
    # Data
    prompts = read_prompts(config, "ppo")
    require_full_batch(len(prompts.train), config)
    tokenizer, stats = prompts.tokenizer, prompts.stats
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
        warn_of_end_token(roles.policy, tokenizer, config)
        run.note(**record_base(roles.policy))
        stop_token_ids = stop_ids(roles.policy.generation_config, tokenizer)
        scorer = load_scorer(config, tokenizer, prompts.reader, roles.reward, stop_token_ids)
        # Trainer
        trainer = PPOTrainer(
            args=trainer_arguments(config),
            processing_class=left_padded(tokenizer),
            model=roles.policy,
            ref_model=roles.reference,
            reward_model=roles.reward,
            value_model=roles.value,
            train_dataset=prompts.train,
            eval_dataset=prompts.test if prompts.test is not None else prompts.train.select([0]),
            scorer=scorer,
            normalizer=initial_normalizer(config),
            ptx_rows=ptx_rows,
        )
        policy = trainer.policy_model
        if roles.reward is not None:
            note_probes(run, policy, scorer, prompts, trainer.args)
        set_callbacks(trainer, run, CollectiveSave(trainer, partial(save_model, policy, tokenizer), policy))
        facts = train_policy(trainer, run)
        # Save
        metrics, samples = held_out_comparison(trainer, run, policy, roles.reference, scorer, prompts)
        save = partial(save_with_samples, policy, tokenizer, samples)
        run.publish(CollectiveSave(trainer, save, policy), metrics, **facts)
    return run.folder


def train_policy(trainer, run) -> dict:
    """Run PPO, from the run's last complete checkpoint if there is one.

    Returns:
        facts for the record: steps (updates), best_step and best_metric with `load_best_model_at_end`, episodes,
        rollout_engine, train_seconds, and `stopped`, the reason for stopping early.
    """
    correct_best_checkpoint(run)
    with defer_signals():
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    require_planned_end(trainer, bool(trainer.stopped) or has_lost_patience(trainer))
    run.started -= trainer.seconds_before
    return {
        "steps": trainer.state.global_step,
        **end_facts(trainer, run),
        "episodes": trainer.state.episode,
        "rollout_engine": trainer.engine.name,
        "train_seconds": round(time.time() - trainer.started, 2),
    }
