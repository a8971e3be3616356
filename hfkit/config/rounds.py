"""The config dataclass of the rounds of a pipeline; this module imports no heavy library."""

from dataclasses import dataclass
from typing import Any

from hfkit.config.fields import DatasetEntry, arg
from hfkit.config.labeling import JudgingFields


@dataclass(kw_only=True)
class RoundsConfig(JudgingFields):
    """How often a pipeline samples from its policy, has the responses judged, and trains on all judgements."""

    count: int = arg(2, help="number of rounds")
    prompts: list[DatasetEntry] = arg(factory=list, help="prompts to sample from; empty: those of the RL stage")
    max_prompts: int | None = arg(400, help="maximum number of prompts per round, chosen by seed; none: all")
    num_samples: int = arg(4, help="number of responses to each prompt")
    temperature: float = arg(1.0, help="sampling temperature; `hfkit chat` and the RL stages have 0.7 by default")
    evaluate: dict[str, Any] = arg(
        factory=dict, help="keys of `hfkit arena`: held-out prompts and the judge of all policies; empty: no evaluation"
    )
