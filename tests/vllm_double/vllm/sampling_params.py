"""The settings of a reply that hfkit sets."""

from dataclasses import dataclass, field


@dataclass
class SamplingParams:
    """Of vLLM's own, with its defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True


class StructuredOutputsParams:
    """TRL imports it; hfkit does not use it."""
