"""The config dataclass of the rounds of a pipeline; this module imports no heavy library."""

from dataclasses import dataclass
from typing import Any

from hfkit.config.fields import DatasetEntry, arg


@dataclass(kw_only=True)
class RoundsConfig:
    """How often a pipeline samples from its policy, has the responses judged, and trains on all judgements."""

    count: int = arg(2, help="number of rounds")
    prompts: list[DatasetEntry] = arg(factory=list, help="prompts to sample from; empty: those of the RL stage")
    max_prompts: int | None = arg(400, help="maximum number of prompts per round, chosen by seed; none: all")
    num_samples: int = arg(4, help="number of responses to each prompt")
    temperature: float = arg(1.0, help="sampling temperature")
    judge: str = arg("human", help="judge: human (on a page), reward, function, or a language model")
    reward_model: str | None = arg(None, help="with judge: reward, the reward model that judges: folder or Hub id")
    reward_function: str | None = arg(None, help="with judge: function, package.module:f or FILE.py:f, as for PPO")
    reward_columns: list[str] = arg(factory=list, help="columns of the prompts to pass to reward_function")
    overlap: int = arg(1, help="number of people who judge each row")
    guide: str | None = arg(None, help="Markdown file with instructions, shown on the page")
    host: str = arg("127.0.0.1", help="address of the page; one that other machines reach requires a password")
    port: int = arg(7860, help="port of the page; 0: a free one, which is printed")
    password_file: str | None = arg(None, help="file with the password of the page, mode 0600")
    per_device_eval_batch_size: int = arg(16, help="rows per forward pass in sampling and judging")
    evaluate: dict[str, Any] = arg(
        factory=dict, help="keys of `hfkit arena`: held-out prompts and the judge of all policies; empty: no evaluation"
    )
