"""Chooses the settings of each stage from its rows: lengths, batches, epochs, held-out rows; each with its reason."""

from dataclasses import asdict, dataclass
from math import ceil, sqrt

import numpy as np

from hfkit.commands.init.sources import SampledSource
from hfkit.config.registry import STAGES
from hfkit.data.forms import FORMS
from hfkit.models.micro_batches import round_up

PERCENTILE = 95
"""Percentile of the lengths that sets the longest row; longer rows are truncated or dropped."""
FEW_ROWS = 1000
FEWEST_ROWS = 100
"""The fewest rows from which some are held out."""
LARGEST_BATCH, LARGEST_ROLLOUT = (16, 8), (64, 16)
"""Rows of an optimizer step, or responses of an update if the stage samples them: on a GPU, on a CPU."""
UPDATES = (100, 20)
LONGEST_RESPONSE = (256, 64)
DEFAULT_RESPONSE = 128


@dataclass(frozen=True)
class Setting:
    """The value of a key, and why it was chosen."""

    value: object
    why: str = ""


StageSettings = dict[str, Setting]


@dataclass(frozen=True)
class Limits:
    """The limits of the model and the device.

    Attributes:
        context: in tokens; None if unlimited or unknown.
    """

    context: int | None
    on_gpu: bool

    def of(self, values: tuple[int, int]) -> int:
        """Return the first of two values for a GPU, the second for a CPU."""
        return values[0 if self.on_gpu else 1]


def choose_settings(stage: str, sources: list[SampledSource], replies: list[int], limits: Limits) -> StageSettings:
    """Return the settings of a stage that depend on its rows; `fit.py` splits the batch.

    Args:
        replies: tokens of the responses that an earlier stage trains on.
    """
    spec = STAGES[stage]
    rows = sum(one.rows or FEW_ROWS for one in sources)
    held_out = min(rows // 20, 64 if spec.samples_replies else 500) if rows >= FEWEST_ROWS else 0
    settings = {"datasets": Setting([entry_of(one) for one in sources])}
    if held_out:
        settings["test_split_size"] = Setting(held_out, "rows for evaluation, which are not trained on")
    settings |= length_settings(stage, sources, replies, limits, held_out)
    settings["use_peft"] = Setting(True, "LoRA: an adapter on the frozen base")
    settings["load_in_4bit"] = Setting(False)
    settings |= batch_settings(stage, rows - held_out, limits)
    return settings


def entry_of(source: SampledSource) -> dict:
    """Return a source as an entry of a YAML."""
    entry = {name: value for name, value in asdict(source.entry).items() if value not in (None, False)}
    return {name: value for name, value in entry.items() if (name, value) != ("split", "train")}


def length_settings(
    stage: str, sources: list[SampledSource], replies: list[int], limits: Limits, held_out: int
) -> StageSettings:
    """Return the limit of a stage's row length, and the share of rows that it may lose."""
    key, lengths = FORMS[STAGES[stage].form].length_key, [length for one in sources for length in one.lengths]
    usual = percentile(lengths)
    settings, room = {}, limits.context
    if STAGES[stage].samples_replies:
        why = f"{PERCENTILE}% of the responses have at most {percentile(replies)} tokens" if replies else ""
        longest = round_up(percentile(replies), 16) if replies else DEFAULT_RESPONSE
        response = min(longest, limits.of(LONGEST_RESPONSE), (room or longest * 2) // 2)
        settings["response_length"] = Setting(response, why)
        room = room and room - response
    longest = round_up(usual, 64)
    if room and longest > room:
        longest, why = room, f"{PERCENTILE}% of the rows have at most {usual} tokens; the model's context allows {room}"
    else:
        why = f"{PERCENTILE}% of the rows have at most {usual} tokens"
    settings = {key: Setting(longest, why), **settings}
    sampled = sum(one.sampled for one in sources)
    lost = 1 - sum(length <= longest for one in sources for length in one.needed) / sampled
    # in a small held-out part the share varies by chance: three standard deviations
    allowed = lost + 3 * sqrt(lost * (1 - lost) / min(held_out or sampled, sampled))
    if allowed > 0.1:
        why = f"{lost:.0%} of the sampled rows would be dropped"
        settings["max_dropped"] = Setting(min(ceil(allowed * 20) / 20, 1.0), why)
    return settings


def percentile(lengths: list[int]) -> int:
    """Return the length that `PERCENTILE` percent of the rows do not exceed."""
    return int(np.percentile(lengths, PERCENTILE, method="higher"))


def batch_settings(stage: str, rows: int, limits: Limits) -> StageSettings:
    """Return batch size and length of a run: few rows mean smaller batches and more epochs."""
    spec = STAGES[stage]
    largest = limits.of(LARGEST_ROLLOUT if spec.samples_replies else LARGEST_BATCH)
    batch = min(largest, 1 << max(rows // 8, 1).bit_length() - 1)
    if not spec.samples_replies:
        epochs = 3 if spec.form == "instructions" and rows < FEW_ROWS else 1
        steps = epochs * rows // batch
        settings = {
            "per_device_train_batch_size": Setting(batch),
            "per_device_eval_batch_size": Setting(batch),
            "gradient_accumulation_steps": Setting(1),
            "num_train_epochs": Setting(epochs),
            "lr_scheduler_type": Setting("cosine"),
            "warmup_steps": Setting(0.1, "of the steps"),
        }
        return settings | ({"logging_steps": Setting(1)} if steps < 100 else {})
    if spec.loop == "trainer":
        return group_settings(rows, batch, limits)
    batch = max(batch, min(4, rows))
    mini_batches = min(4, max(batch // 4, 1))
    episodes = batch * max(min(limits.of(UPDATES), 2 * rows // batch), 1)
    return {
        "per_device_train_batch_size": Setting(batch // mini_batches),
        "per_device_eval_batch_size": Setting(batch // mini_batches),
        "gradient_accumulation_steps": Setting(mini_batches),
        "num_mini_batches": Setting(mini_batches),
        "total_episodes": Setting(episodes, f"{episodes // batch} updates of {batch} responses"),
        "num_ppo_epochs": Setting(2),
    }


def group_settings(rows: int, batch: int, limits: Limits) -> StageSettings:
    """Return batch size and length of GRPO or RLOO, whose batches consist of groups of responses to a prompt."""
    group = min(8, max(batch, 4))
    batch = max(batch, group)
    passes = min(4, batch // 4)
    updates = max(min(limits.of(UPDATES), 2 * rows * group // batch), 1)
    return {
        "per_device_train_batch_size": Setting(batch // passes),
        "per_device_eval_batch_size": Setting(batch // passes),
        "gradient_accumulation_steps": Setting(passes),
        "num_generations": Setting(group, "responses to each prompt, compared with one another"),
        "max_steps": Setting(updates, f"updates of {batch} responses"),
    }
