"""GRPO and RLOO train as TRL's own trainers do: the same responses, rewards, advantages, losses and weights."""

import json
from itertools import product

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from quick import mostly_slow
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PrinterCallback, TrainerCallback

from hfkit.data.forms import PROMPTS, encode_prompts
from hfkit.data.splits import load_splits
from hfkit.models.generation import stop_ids
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.rlhf import GRPOTrainer, RLOOTrainer
from hfkit.rlhf.rewards import load_scorer
from hfkit.rlhf.roles import load_scored_policy
from hfkit.stages.online import left_padded
from hfkit.training.arguments import trainer_arguments

OWN = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}
BARE = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}
RUN = {
    "learning_rate": 1e-3,
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
}
RUN |= {"gradient_accumulation_steps": 2, "num_iterations": 2, "beta": 0.1, "seed": 3, "temperature": 1.0}
LENGTH = 16  # hfkit draws other random numbers after these tokens, since rows that have ended leave the batch
LOGGED = ("loss", "grad_norm", "reward", "reward_std", "entropy", "completions/clipped_ratio", "clip_ratio/region_mean")


class Recording:
    """A mixin for trainers: keeps the sampled batches, and the trained weights after each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches, self.weights = [], []
        outer = self

        class Weights(TrainerCallback):
            def on_step_end(self, *args, **kwargs):
                trained = [one.detach().clone() for one in outer.model.parameters() if one.requires_grad]
                outer.weights.append(torch.cat([one.flatten() for one in trained]))

        self.add_callback(Weights())
        self.remove_callback(PrinterCallback)

    def _generate_and_score_completions(self, inputs):
        self.batches.append(batch := super()._generate_and_score_completions(inputs))
        return batch


def vowels(texts: list[str]) -> list[float]:
    return [sum(one in "aeiou" for one in text) / max(len(text), 1) for text in texts]


def own_reward(prompts, replies, **_) -> list[float]:
    return vowels(replies)


def bare_reward(prompts, completions, **_) -> list[float]:
    return vowels([one[0]["content"] for one in completions])


@pytest.fixture(scope="module")
def models(tokenizer_dir, tmp_path_factory):
    """A random Llama that ends one response in twelve tokens, and an adapter on it, which differs from zero."""
    base, adapter = (tmp_path_factory.mktemp(name) for name in ("base", "adapter"))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **shape, **ends))
    with torch.no_grad():  # a unit that all hidden states have
        model.get_input_embeddings().weight[:, 0] = 3.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 0.57
    model.save_pretrained(base)
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    policy.save_pretrained(adapter)
    for folder in (base, adapter):
        tokenizer.save_pretrained(folder)
    return base, adapter


@pytest.fixture
def trained(config_of, tmp_path, models, data):
    """trained(stage, is_own, use_peft, **changes) -> a trainer of hfkit or of TRL after its run."""

    def own_trainer(stage: str, settings: dict, start):
        inputs = {"reward_model_path": None, "reward_functions": [f"{__name__}:own_reward"]}
        config = config_of(stage, tmp_path / "own", model_name_or_path=str(start), **settings, **inputs)
        tokenizer = load_stage_tokenizer(config)
        rows, _, stats = load_splits(config, PROMPTS, config.reward_columns)
        loaded = load_scored_policy(config)
        stop_token_ids = stop_ids(loaded.policy.generation_config, tokenizer)
        assert stop_token_ids == [tokenizer.eos_token_id]  # as in TRL
        return type("Own", (Recording, OWN[stage]), {})(
            model=loaded.policy,
            ref_model=loaded.reference,
            scorer=load_scorer(config, tokenizer, None, None, stop_token_ids),
            args=trainer_arguments(config),
            train_dataset=encode_prompts(rows, tokenizer, stats["train"], config),
            eval_dataset=None,
            processing_class=left_padded(tokenizer),
        )

    def bare_trainer(stage: str, settings: dict, start):
        model = AutoModelForCausalLM.from_pretrained(models[0], dtype="float32")
        if settings.pop("use_peft"):
            model = PeftModel.from_pretrained(model, start, is_trainable=True)
        for name in ("micro_batches_by_length", "max_tokens_per_micro_batch", "response_length"):
            settings.pop(name, None)
        settings |= {
            "max_completion_length": LENGTH,
            "top_k": 0,
            "disable_dropout": True,
            "use_cpu": True,
            "bf16": False,
        }
        settings |= {"gradient_checkpointing": False, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        rows = [json.loads(line)["prompt"] for line in (data / "prompts.jsonl").read_text().splitlines()]
        trainer, arguments = BARE[stage]
        return type("Bare", (Recording, trainer), {})(
            model=model,
            reward_funcs=bare_reward,
            args=arguments(output_dir=str(tmp_path / "bare"), **settings),
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": row}] for row in rows]}),
            processing_class=AutoTokenizer.from_pretrained(start, padding_side="left"),
        )

    def run(stage: str, is_own: bool, use_peft: bool = True, **changes):
        settings = {**RUN, "use_peft": use_peft, "response_length": LENGTH, **changes}
        make = own_trainer if is_own else bare_trainer
        trainer = make(stage, settings, models[use_peft])
        trainer.train()
        return trainer

    return run


def rows_of(batch: dict) -> list:
    """Return prompt and response of each row as token ids, and whether its tokens are in the loss."""
    ids, mask = (torch.cat([batch[f"prompt_{one}"], batch[f"completion_{one}"]], 1).tolist() for one in ("ids", "mask"))
    return [[token for token, is_kept in zip(*row, strict=True) if is_kept] for row in zip(ids, mask, strict=True)]


def assert_same_training(ours, theirs) -> None:
    assert [rows_of(batch) for batch in ours.batches] == [rows_of(batch) for batch in theirs.batches]
    for own, bare in zip(ours.batches, theirs.batches, strict=True):
        torch.testing.assert_close(own["advantages"], bare["advantages"], rtol=1e-4, atol=1e-5)
    logs = ([log for log in trainer.state.log_history if "grad_norm" in log] for trainer in (ours, theirs))
    for own, bare in zip(*logs, strict=True):
        names = [name for name in LOGGED if name in bare]
        assert {name: own[name] for name in names} == pytest.approx({name: bare[name] for name in names}, 1e-4, 1e-5)
    for own, bare in zip(ours.weights, theirs.weights, strict=True):
        # Adam's first steps have the size of the learning rate, however small and rounded a gradient is
        assert float((own - bare).abs().mean()) < 1e-6 and float((own - bare).norm()) < 1e-3 * float(bare.norm())
    assert float((ours.weights[-1] - ours.weights[0]).abs().mean()) > 1e-4
    ended = [1 - log["completions/clipped_ratio"] for log in ours.state.log_history if "num_tokens" in log]
    assert 0 < sum(ended) < len(ended)


LOSSES = [{"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "dapo", "sapo", "vespo")]
LOSSES += [{"loss_type": "luspo", "importance_sampling_level": "sequence"}, {"loss_type": "cispo", "epsilon_high": 5.0}]
CUTS = [{"micro_batches_by_length": False}, {"max_tokens_per_micro_batch": 64}]
MASKED = {"mask_truncated_completions": True}
METHODS = [*(("grpo", loss) for loss in LOSSES), ("rloo", {}), ("rloo", {"normalize_advantages": True})]
CASES = [(stage, {**loss, **cut, **masked}) for (stage, loss), cut, masked in product(METHODS, CUTS, ({}, MASKED))]
CASES += [("grpo", {"scale_rewards": scale, **CUTS[1]}) for scale in ("batch", "none")]
CASES += [(stage, {"beta": 0.0, "num_iterations": 1, **CUTS[1]}) for stage in OWN]
CASES += [(stage, {"use_peft": False, **changes}) for stage in OWN for changes in ({}, {"beta": 0.0})]
QUICK = [
    ("grpo", {"loss_type": "dapo", **CUTS[1], **MASKED}),
    ("rloo", {**CUTS[1], **MASKED}),
]


@pytest.mark.parametrize(("stage", "changes"), mostly_slow(CASES, QUICK), ids=lambda value: str(value))
def test_training_is_that_of_trl(trained, stage, changes):
    """Two updates learn from each batch of responses, and both add the gradients of two forward passes."""
    assert_same_training(trained(stage, True, **changes), trained(stage, False, **changes))
