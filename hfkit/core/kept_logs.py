"""Keeps a `Trainer`'s pending logs and counts in checkpoints, through private parts of it; see also `compat.py`.

`tests/training/test_resume.py` fails when upstream moves one.
"""

import time
from pathlib import Path

from hfkit.core.compat import names_of_modules
from hfkit.core.device import wait_for_everyone

SCHEDULE_METRIC = "schedule_metric"
"""What is kept if a resumed run has finished an evaluation: its metric, if the learning rate schedule follows one."""


class KeepsLogs:
    """A mixin for a `Trainer` whose checkpoints keep metrics not logged yet and the counts since the first step.

    transformers 5.23.0: a resumed run loses the losses since the last log. trl 1.12.0: also the metrics since then, and
    the tokens since the first step. Every process calls `_save_checkpoint` just before a checkpoint.

    Attributes:
        started: when training began, minus the seconds that it took up to the checkpoint that it resumes from.
    """

    started: float

    def save_checkpoint(self):
        """Save a checkpoint now; a callback can request one only at the end of a step."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model, trial):
        use_evaluated_weights(self)
        kept = self.pending_logs()
        loss = self.accelerator.gather(kept["loss"]).mean().item()
        kept |= {"loss": loss, "seconds": time.time() - self.started}
        self.state.stateful_callbacks[KeepsLogs.__name__] = kept
        # In each process Trainer checks whether the folder of the best checkpoint exists. It may be this one, which
        # Trainer creates only after the check when it saves shards.
        Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").mkdir(parents=True, exist_ok=True)
        with names_of_modules(self.accelerator.unwrap_model(self.model)):
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        """Save this process's generators; `trainer_state.json`, written next, marks that all processes have done so."""
        super()._save_rng_state(output_dir)
        wait_for_everyone()

    def pending_logs(self):
        """Return a copy of the metrics not logged yet and of the counts."""
        kept = {"loss": self._tr_loss.clone(), "last_logged": self._globalstep_last_logged}
        if hasattr(self, "_total_train_tokens"):
            metrics = {name: [*values] for name, values in self._metrics["train"].items()}
            kept |= {"tokens": self._total_train_tokens, "metrics": metrics}
        return kept

    def set_pending_logs(self, kept):
        """Restore what `pending_logs` returned, or what a checkpoint kept; call it during training."""
        self._tr_loss.fill_(kept["loss"])
        self._globalstep_last_logged = kept["last_logged"]
        self.set_counts(kept)
        if "tokens" in kept:
            self._metrics["train"].clear()
            self._metrics["train"].update(kept["metrics"])

    def mean_loss(self):
        """Return the mean loss of all steps of a run that has logged none, also of those before it resumed.

        transformers 5.24.0: `Trainer.train` returns the loss of all of them over the steps since then.
        """
        return self._total_loss_scalar / self.state.global_step

    def set_counts(self, kept):
        """Restore the counts since the first step; an evaluation before training reports them."""
        if "tokens" in kept:
            self._total_train_tokens = kept["tokens"]


def use_evaluated_weights(trainer) -> None:
    """Let an optimizer without a schedule hold the weights to evaluate and save; the next step returns to its own.

    transformers 5.24.0: `Trainer` does so in its own evaluation loop only, and saves the others.
    """
    if callable(evaluate := getattr(trainer.optimizer, "eval", None)):
        evaluate()


def kept_logs(state) -> dict:
    """Return what `KeepsLogs` kept in the state of a checkpoint; {} for a new run or an older version."""
    return state.stateful_callbacks.get(KeepsLogs.__name__, {})
