"""The registry of stages: what each stage is, so that no other code switches on a stage's name.

To add a stage, write a config class, a module with `main(config)`, and `register` a `StageSpec` for them. The command
line, Python's `hfkit.NAME(...)`, plans, pipelines, cards and reports read what they need from it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from hfkit.config.stages import (
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    RLOOConfig,
    SFTConfig,
    TokenizerConfig,
)


@dataclass(frozen=True, kw_only=True)
class Input:
    """A config key that a pipeline sets to the output folder of an earlier stage.

    Args:
        key: the key of the stage's config.
        stages: the earlier stages that it can come from; the first that the pipeline has counts.
        unless: another key of the config; the pipeline leaves `key` alone where the YAML sets that one.
    """

    key: str
    stages: tuple[str, ...]
    unless: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a stage reads, runs and makes.

    Args:
        name: the name in commands, YAMLs and records.
        config_class: the dataclass that the stage's YAML fills; None if there is no YAML.
        module: the module whose docstring is the help text and whose `main(config)` returns the run's folder.
        help: the line of `hfkit --help`: what the stage does, as an imperative.
        title: the title in reports and tables.
        phase: the name of this part of training an assistant, for the overview of a report; "": the title.
        objective: what training optimizes, in a few words, for the same overview.
        purpose: one sentence for the model card on what the stage makes.
        makes: the kind of output. A base model continues text, an assistant answers. None means the kind of model that
            the stage starts from.
        form: the form of the rows in `datasets`, see `hfkit.data.forms`.
        loop: the training loop: "trainer" is Transformers' loop over batches, "ppo" samples responses; None trains no
            model.
        uses_trl: whether the trainer is TRL's.
        holds_reference: whether the model that training starts from stays in memory, as its reference.
        length_key: the config key with the maximum length of a row in tokens; None if no single key limits it.
        inputs: the config keys that a pipeline fills in.
        checks: `package.module:function` of further config checks; the function returns a list of `Problem`.
        eval_metrics: the metrics of held-out rows that a best checkpoint can be chosen by, the default first; empty for
            a stage whose config names them.
        limits: one sentence for the model card on what not to rely on.
        loss_label: title and y label of the loss plot.
        step_name: x label of plots over training.
    """

    name: str
    config_class: type | None
    module: str
    help: str
    title: str
    purpose: str
    makes: Literal["tokenizer", "base model", "assistant", "reward model"] | None
    form: Literal["text", "instructions", "comparisons", "prompts"] | None = None
    loop: Literal["trainer", "ppo"] | None = "trainer"
    uses_trl: bool = False
    holds_reference: bool = False
    length_key: str | None = None
    inputs: tuple[Input, ...] = ()
    checks: str | None = None
    eval_metrics: tuple[str, ...] = ()
    limits: str = ""
    phase: str = ""
    objective: str = ""
    loss_label: tuple[str, str] = ("Loss", "cross entropy (nats per token)")
    step_name: str = "optimizer steps"

    @property
    def samples_replies(self) -> bool:
        """Whether training samples responses to prompts and scores them."""
        return self.form == "prompts"

    @property
    def starts_from_a_model(self) -> bool:
        """Whether the stage starts from a model that an earlier stage makes."""
        return any(wanted.key == "model_name_or_path" for wanted in self.inputs)

    @property
    def trains_a_model(self) -> bool:
        """Whether the stage trains a model, which has steps, memory and checkpoints to plan."""
        return self.loop is not None


STAGES: dict[str, StageSpec] = {}
"""The stages by name, in the order in which a pipeline runs them."""

MERGE = StageSpec(
    name="merge",
    config_class=None,
    module="hfkit.commands.merge",
    help="merge a LoRA adapter into its base",
    title="Merged model",
    purpose="A LoRA adapter merged into its base: a standalone model.",
    makes=None,
    loop=None,
)
"""`hfkit merge` is no stage, but its output has a record and a model card too."""


def register(spec: StageSpec) -> StageSpec:
    """Add a stage to the end of `STAGES` and return it.

    Raises:
        ValueError: the name is taken.
    """
    if spec_of(spec.name) is not None:
        raise ValueError(f"the stage {spec.name!r} is registered already")
    STAGES[spec.name] = spec
    return spec


def spec_of(name: str | None) -> StageSpec | None:
    """Return the spec for the `stage` of a record; None if hfkit did not make it."""
    return MERGE if name == MERGE.name else STAGES.get(name or "")


def spec_of_config(config) -> StageSpec | None:
    """Return the spec of the stage that a config is for; None if it is not a stage's config."""
    by_class = {spec.config_class: spec for spec in STAGES.values()}
    return next((by_class[kind] for kind in type(config).__mro__ if kind in by_class), None)


online_spec = partial(
    StageSpec,
    phase="Reinforcement learning",
    makes="assistant",
    form="prompts",
    uses_trl=True,
    holds_reference=True,
    inputs=(
        Input(key="model_name_or_path", stages=("dpo", "sft")),
        Input(key="reward_model_path", stages=("reward",)),
    ),
)
"""The spec of a stage that samples responses; it starts from the output of DPO if the pipeline has it."""

for spec in (
    StageSpec(
        name="tokenizer",
        config_class=TokenizerConfig,
        module="hfkit.stages.tokenizer",
        help="train a byte-level BPE tokenizer",
        title="Tokenizer",
        purpose="A byte-level BPE tokenizer with a chat template.",
        makes="tokenizer",
        form="text",
        loop=None,
        checks="hfkit.stages.checks.tokenizer:tokenizer_problems",
    ),
    StageSpec(
        name="pretrain",
        config_class=PretrainConfig,
        module="hfkit.stages.pretrain",
        help="pretrain a causal language model, from scratch or continued",
        title="Pretraining",
        phase="Pretraining",
        objective="language modeling: predict the next token of a text",
        purpose="A causal language model, pretrained on plain text.",
        makes="base model",
        form="text",
        length_key="block_size",
        inputs=(Input(key="tokenizer_name_or_path", stages=("tokenizer",), unless="model_name_or_path"),),
        checks="hfkit.stages.checks.pretrain:pretrain_problems",
        eval_metrics=("loss", "perplexity", "bits_per_byte"),
    ),
    StageSpec(
        name="sft",
        config_class=SFTConfig,
        module="hfkit.stages.sft",
        help="fine-tune a model on conversations or instructions",
        title="SFT",
        phase="Supervised fine-tuning",
        objective="language modeling: predict the next token of a response",
        purpose="A causal language model, fine-tuned on instructions and their responses.",
        makes="assistant",
        form="instructions",
        uses_trl=True,
        length_key="max_length",
        inputs=(Input(key="model_name_or_path", stages=("pretrain",)),),
        eval_metrics=("loss", "mean_token_accuracy", "entropy"),
    ),
    StageSpec(
        name="reward",
        config_class=RewardConfig,
        module="hfkit.stages.reward",
        help="train a reward model on pairs or rankings of responses",
        title="Reward model",
        phase="Reward modeling",
        objective="ranking: score the better response to a prompt higher (Bradley-Terry)",
        purpose="A reward model: it gives a conversation one scalar score, higher for better responses.",
        makes="reward model",
        form="comparisons",
        uses_trl=True,
        length_key="max_length",
        inputs=(Input(key="model_name_or_path", stages=("sft",)),),
        eval_metrics=("loss", "accuracy", "accuracy_low", "margin", "log_loss", "calibration_error"),
        loss_label=("Loss", "pairwise loss (nats)"),
    ),
    StageSpec(
        name="dpo",
        config_class=DPOConfig,
        module="hfkit.stages.dpo",
        help="train a policy with DPO, on pairs or rankings",
        title="DPO",
        phase="Preference optimization",
        objective="ranking: make the better response more likely than the worse one, near the start (DPO)",
        purpose="A causal language model, trained with DPO on preferences.",
        makes="assistant",
        form="comparisons",
        uses_trl=True,
        holds_reference=True,
        length_key="max_length",
        inputs=(Input(key="model_name_or_path", stages=("sft",)),),
        checks="hfkit.stages.checks.dpo:dpo_problems",
        eval_metrics=("loss", "accuracy", "margin"),
        limits="DPO learned which of two responses people prefer, not which responses are right.",
        loss_label=("Loss", "loss per pair"),
    ),
    online_spec(
        name="ppo",
        config_class=PPOConfig,
        module="hfkit.stages.ppo",
        help="train a policy with PPO, on a reward model or reward functions",
        title="PPO",
        objective="reinforcement learning: sample responses and raise their reward, near the start (PPO)",
        purpose="A causal language model, trained with PPO.",
        loop="ppo",
        checks="hfkit.stages.checks.ppo:ppo_problems",
        limits="PPO maximized its rewards: a high reward does not mean that people prefer its responses.",
        step_name="updates",
    ),
    online_spec(
        name="grpo",
        config_class=GRPOConfig,
        module="hfkit.stages.grpo",
        help="train a policy with GRPO, on a reward model or reward functions",
        title="GRPO",
        objective="reinforcement learning: raise the reward of a response over that of its group (GRPO)",
        purpose="A causal language model, trained with GRPO.",
        checks="hfkit.stages.checks.groups:group_problems",
        limits="GRPO maximized its rewards: a high reward does not mean that people prefer its responses.",
        loss_label=("Loss", "loss per token"),
    ),
    online_spec(
        name="rloo",
        config_class=RLOOConfig,
        module="hfkit.stages.rloo",
        help="train a policy with RLOO, on a reward model or reward functions",
        title="RLOO",
        objective="reinforcement learning: raise the reward of a response over that of the others (RLOO)",
        purpose="A causal language model, trained with RLOO.",
        checks="hfkit.stages.checks.groups:group_problems",
        limits="RLOO maximized its rewards: a high reward does not mean that people prefer its responses.",
        loss_label=("Loss", "loss per response"),
    ),
):
    register(spec)
