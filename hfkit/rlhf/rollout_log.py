"""`rollouts.jsonl`: a sample of the responses that the policy was trained on."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from hfkit.core.files import write_text
from hfkit.core.masking import without_secrets

LOGGED_REPLIES = 8
"""About how many responses of an update are logged."""


class RolloutLog:
    """One JSON object a line: `step`, `prompt`, `reply`, `score` (after shaping), and `kl` if known before the update.

    `kl` is the KL estimate in the penalty of PPO: nats per response, by the configured `kl_estimator`.
    """

    def __init__(self, folder: str, tokenizer: PreTrainedTokenizerBase):
        self.path, self.tokenizer = Path(folder) / "rollouts.jsonl", tokenizer

    def truncate(self, step: int) -> None:
        """Remove the lines after a step, and an incomplete last line: a resumed run writes them again."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]  # after the last newline: incomplete
            write_text(self.path, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))

    def append(
        self,
        step: int,
        prompts: list[list[int]],
        replies: list[list[int]],
        scores: torch.Tensor,
        kl: torch.Tensor | None = None,
    ) -> None:
        """Append some of the N responses of a batch, best score first; scores and KL are (N,)."""
        order = scores.argsort(descending=True).tolist()
        with self.path.open("a", encoding="utf-8") as stream:
            for index in order[:: max(len(order) // LOGGED_REPLIES, 1)]:
                sample = {
                    "step": step,
                    "prompt": self.tokenizer.decode(prompts[index]),
                    "reply": self.tokenizer.decode(replies[index], skip_special_tokens=True),
                    "score": round(float(scores[index]), 4),
                    **({} if kl is None else {"kl": round(float(kl[index]), 4)}),
                }
                stream.write(json.dumps(without_secrets(sample), ensure_ascii=False) + "\n")
