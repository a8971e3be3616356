"""What a `Trainer` logs later, and counts: private parts of it, beside those in `compat.py`.

`tests/training/test_resume.py` fails when upstream moves one.
"""

import time
from pathlib import Path

from hfkit.core.device import wait_for_everyone


class KeepsLogs:
    """A mixin for a `Trainer`: its checkpoints keep what is not logged yet, and what is counted since the first step.

    transformers 5.23.0: a resumed run forgets the losses since the last log. trl 1.12.0: and its metrics since then,
    and the tokens since the first step. `_save_checkpoint` is where every process is just before a checkpoint.

    Attributes:
        started: when training began, less the seconds that it took up to the checkpoint that it resumes from.
    """

    started: float

    def save_checkpoint(self):
        """Save a checkpoint now; a callback can ask for one only at the end of a step."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model, trial):
        kept = self.pending_logs()
        loss = self.accelerator.gather(kept["loss"]).mean().item()
        kept |= {"loss": loss, "seconds": time.time() - self.started}
        self.state.stateful_callbacks[KeepsLogs.__name__] = kept
        # Trainer asks in each process whether the folder of the best checkpoint exists. It may be this one, and where
        # shards are saved Trainer would create it only after that.
        Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        """Save this process's generators; `trainer_state.json`, written next, says that all processes have done so."""
        super()._save_rng_state(output_dir)
        wait_for_everyone()

    def pending_logs(self):
        """Return a copy of what is not logged yet, and of what is counted."""
        kept = {"loss": self._tr_loss.clone(), "last_logged": self._globalstep_last_logged}
        if hasattr(self, "_total_train_tokens"):
            metrics = {name: [*values] for name, values in self._metrics["train"].items()}
            kept |= {"tokens": self._total_train_tokens, "metrics": metrics}
        return kept

    def set_pending_logs(self, kept):
        """Take over what `pending_logs` returned, or what a checkpoint kept; call it within training."""
        self._tr_loss.fill_(kept["loss"])
        self._globalstep_last_logged = kept["last_logged"]
        self.set_counts(kept)
        if "tokens" in kept:
            self._metrics["train"].clear()
            self._metrics["train"].update(kept["metrics"])

    def set_counts(self, kept):
        """Take over what was counted since the first step; an evaluation before training reports it."""
        if "tokens" in kept:
            self._total_train_tokens = kept["tokens"]


def kept_logs(state) -> dict:
    """Return what `KeepsLogs` kept in the state of a checkpoint; {} for that of a new run, or of an older version."""
    return state.stateful_callbacks.get(KeepsLogs.__name__, {})
