"""The config dataclasses of `hfkit label` and of the rounds of a pipeline; this module imports no heavy library."""

from dataclasses import dataclass
from typing import Any

from hfkit.config.fields import DatasetEntry, Dtype, arg

FLAGS = ("unsafe", "wrong", "off-topic", "format")
PASSWORD = "HFKIT_LABEL_PASSWORD"
"""The environment variable of the password, used if there is no `password_file`."""


@dataclass(kw_only=True)
class JudgingFields:
    """Who judges responses: people on a page, or a judge without one."""

    judge: str = arg(
        "human", help="judge: human (on a page), reward, function, or the folder or Hub id of a language model"
    )
    reward_model: str | None = arg(None, help="with judge: reward, the reward model: folder or Hub id")
    reward_function: str | None = arg(None, help="with judge: function, package.module:f or FILE.py:f, as for PPO")
    reward_columns: list[str] = arg(factory=list, help="columns of the rows to pass to reward_function")
    overlap: int = arg(1, help="number of people who judge each row")
    flags: list[str] = arg(factory=lambda: list(FLAGS), help="flags that people can set on a response")
    guide: str | None = arg(None, help="Markdown file with instructions, shown on the page")
    host: str = arg("127.0.0.1", help="address to listen on; one that other machines reach requires a password")
    port: int = arg(7860, help="port to listen on; 0: a free one, which is printed")
    password_file: str | None = arg(
        None, help=f"file with the password of the page, mode 0600; none: the environment variable {PASSWORD}, if set"
    )
    allowed_hosts: list[str] = arg(
        factory=list, help="further names by which browsers reach the page, such as that of a proxy"
    )
    per_device_eval_batch_size: int = arg(16, help="rows per forward pass of models that judge or respond")


@dataclass(kw_only=True)
class LabelConfig(JudgingFields):
    """Rows whose responses people, or a judge, rank; and where the judgements go."""

    datasets: list[DatasetEntry] = arg(
        help="rows to judge: rankings without ranks (what `hfkit sample` writes), pairs, feedback, prompts; may be "
        "given as the first arguments"
    )
    output_dir: str = arg(
        "runs/labels", help="folder for judgements.jsonl, rankings.jsonl, instructions.jsonl, labels.json"
    )
    labelers: list[str] = arg(
        factory=list, help="names of those whose judgements are exported to rankings and instructions; empty: everyone"
    )
    until_complete: bool = arg(False, help="end when every row has its judgements; false: Ctrl-C ends the page")
    export: bool = arg(False, help="write the files of the judgements so far, without the page")
    dtype: Dtype | None = arg(
        None,
        help="dtype of a judge that is a model; auto: as in the checkpoint; none: bfloat16 on a GPU with bf16, "
        "else float32",
    )
    seed: int = arg(42, help="seed for the order of rows and of responses")


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
