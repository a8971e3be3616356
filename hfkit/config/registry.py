"""The stages: what each of them is, for the code that treats stages differently.

Nothing else asks for a stage by its name. A further stage is a config class, a module with `main(config)`, and a
`StageSpec` here.
"""

from dataclasses import dataclass
from typing import Literal

from hfkit.config.stages import PPOConfig, PretrainConfig, RewardConfig, SFTConfig, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Input:
    """A key that names what an earlier stage of a pipeline makes.

    Args:
        key: of the stage's config.
        stage: the earlier stage.
        unless: another key of the config; where that is set, this one is not filled in.
    """

    key: str
    stage: str
    unless: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a stage is.

    Args:
        name: of the verb, the YAML and the record.
        config_class: the dataclass that its YAML fills; None where there is no YAML.
        module: whose docstring is the help, and whose `main(config)` runs it and returns the run's folder.
        title: in reports and tables.
        purpose: what comes out of it, in a sentence of its card.
        makes: what comes out of it. A base model continues text, an assistant replies; None is what came in.
        form: the rows of its `datasets`; see `hfkit.data.forms`.
        loop: the trainer that it runs: Transformers' loop over batches, PPO's over replies, or none.
        uses_trl: whether that trainer is TRL's.
        length_key: the key of the longest row, in tokens; None where rows have no limit of their own.
        inputs: what it takes from earlier stages of a pipeline.
        checks: `package.module:function` with further checks of its config, each returning a list of problems.
        limits: a sentence for the card on what its result should not be trusted with.
        loss_label: title and y label of its loss, in plots.
        step_name: what its steps are called, in plots.
    """

    name: str
    config_class: type | None
    module: str
    title: str
    purpose: str
    makes: Literal["tokenizer", "base model", "assistant", "reward model"] | None
    form: Literal["text", "instructions", "comparisons", "prompts"] | None = None
    loop: Literal["trainer", "ppo"] | None = "trainer"
    uses_trl: bool = False
    length_key: str | None = None
    inputs: tuple[Input, ...] = ()
    checks: str | None = None
    limits: str = ""
    loss_label: tuple[str, str] = ("Loss", "cross entropy (nats per token)")
    step_name: str = "optimizer steps"

    @property
    def trains_a_model(self) -> bool:
        """Whether a model comes out of a training loop, which has steps, memory and checkpoints to plan."""
        return self.loop is not None


STAGES: dict[str, StageSpec] = {}
"""The stages by name, in the order in which a pipeline runs them."""


def register(spec: StageSpec) -> StageSpec:
    """Add a stage, after those that there are."""
    STAGES[spec.name] = spec
    return spec


MERGE = StageSpec(
    name="merge",
    config_class=None,
    module="hfkit.commands.merge",
    title="Merged model",
    purpose="A LoRA adapter merged into its base: an ordinary model in full.",
    makes=None,
    loop=None,
)
"""No stage, but a run with a record and a card of its own."""


def spec_of(name: str | None) -> StageSpec | None:
    """Return the spec for the `stage` of a record; None for what hfkit did not make."""
    return MERGE if name == MERGE.name else STAGES.get(name or "")


register(
    StageSpec(
        name="tokenizer",
        config_class=TokenizerConfig,
        module="hfkit.stages.tokenizer",
        title="Tokenizer",
        purpose="A byte-level BPE tokenizer with a chat template.",
        makes="tokenizer",
        form="text",
        loop=None,
    )
)
register(
    StageSpec(
        name="pretrain",
        config_class=PretrainConfig,
        module="hfkit.stages.pretrain",
        title="Pretraining",
        purpose="A causal language model, pretrained on plain text.",
        makes="base model",
        form="text",
        length_key="block_size",
        inputs=(Input(key="tokenizer_name_or_path", stage="tokenizer", unless="model_name_or_path"),),
        checks="hfkit.stages.checks.models:pretrain_problems",
    )
)
register(
    StageSpec(
        name="sft",
        config_class=SFTConfig,
        module="hfkit.stages.sft",
        title="SFT",
        purpose="A causal language model, fine-tuned on instructions and their replies.",
        makes="assistant",
        form="instructions",
        uses_trl=True,
        length_key="max_length",
        inputs=(Input(key="model_name_or_path", stage="pretrain"),),
    )
)
register(
    StageSpec(
        name="reward",
        config_class=RewardConfig,
        module="hfkit.stages.reward",
        title="Reward model",
        purpose="A reward model: it gives a conversation one scalar, higher for the better reply.",
        makes="reward model",
        form="comparisons",
        uses_trl=True,
        length_key="max_length",
        inputs=(Input(key="model_name_or_path", stage="sft"),),
        loss_label=("Loss", "pairwise loss (nats)"),
    )
)
register(
    StageSpec(
        name="ppo",
        config_class=PPOConfig,
        module="hfkit.stages.ppo",
        title="PPO",
        purpose="A causal language model, trained with PPO against a reward model.",
        makes="assistant",
        form="prompts",
        loop="ppo",
        uses_trl=True,
        inputs=(
            Input(key="model_name_or_path", stage="sft"),
            Input(key="reward_model_path", stage="reward"),
        ),
        checks="hfkit.stages.checks.ppo:ppo_problems",
        limits="Its rewards are what it was trained to raise: they do not tell how people would judge it.",
        step_name="updates",
    )
)
