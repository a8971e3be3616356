"""`rollouts.jsonl`: some of the replies that the policy learnt from, as it went."""

import json
from pathlib import Path

from hfkit.core.files import write_text
from hfkit.rlhf.experience import Experience

LOGGED_SAMPLES = 8
"""Replies of an update, about."""


class SampleFile:
    """One JSON object a line: step, prompt, reply, score (as the update took it), kl (nats).

    A resumed run first goes back to the lines of its checkpoint's step, as `metrics.jsonl` does.
    """

    def __init__(self, folder: str, tokenizer):
        self.path, self.tokenizer = Path(folder) / "rollouts.jsonl", tokenizer

    def begin(self, step: int) -> None:
        """Drops the lines after a step, and one that was cut off."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]  # after the last newline: cut off, or empty
            write_text(self.path, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))

    def write(self, step: int, rows: list[dict], replies: list[list[int]], experience: Experience) -> None:
        """Appends some of a batch's replies, from the best to the worst."""
        kl = (experience.logprobs - experience.ref_logprobs).where(experience.tokens.mask, 0.0).sum(1)
        order = experience.scores.argsort(descending=True).tolist()
        with self.path.open("a", encoding="utf-8") as stream:
            for place in order[:: max(len(order) // LOGGED_SAMPLES, 1)]:
                sample = {
                    "step": step,
                    "prompt": self.tokenizer.decode(rows[place]["input_ids"]),
                    "reply": self.tokenizer.decode(replies[place], skip_special_tokens=True),
                    "score": round(float(experience.scores[place]), 4),
                    "kl": round(float(kl[place]), 4),
                }
                stream.write(json.dumps(sample, ensure_ascii=False) + "\n")
