"""hfkit run configs/quickstart/pipeline.yaml --output_dir runs/mine

Runs the stages of a pipeline in order, each into its own folder of `output_dir`, and passes each output on:

    output_dir: runs/quickstart
    stages:            # any of these, in this order
      tokenizer: tokenizer.yaml     # path relative to this file or to the current folder
      pretrain: pretrain.yaml       # gets tokenizer_name_or_path
      sft: sft.yaml                 # gets model_name_or_path: the pretrained model
      reward: reward.yaml           # gets model_name_or_path: the SFT model
      ppo: ppo.yaml                 # gets the SFT model too, and reward_model_path

A stage may also be a list of files and mappings; later ones replace keys of earlier ones: `sft: [sft.yaml,
{model_name_or_path: my-model}]`. `extends: other.yaml` includes the stages of another pipeline, or of a list of them;
the pipeline's own keys replace theirs.

Keys that a stage's YAML sets are kept. A stage that is done with the same config and data is skipped; an interrupted
stage is resumed. `--sft.learning_rate 1e-4` sets a key of one stage, `--seed 1` a key of all. With `--push_to_hub
--hub_model_id USER/NAME` each model is pushed, to USER/NAME-sft and so on.

With `rounds:` the stages from the reward model on run in rounds, each into `round_1/`, `round_2/`: sample from the last
policy, have people or a judge rank the responses, train a reward model on the rankings of all rounds, and the policy on
it. `--rounds.count 3` sets a key of the rounds. The same command resumes.
"""

from argparse import Namespace
from pathlib import Path

from hfkit.commands.rounds.main import run_rounds
from hfkit.core.console import say
from hfkit.stages.pipeline import run_pipeline
from hfkit.stages.pipeline_file import read_pipeline


def run(path: str | Path, output_dir: str | None = None, flags: list[str] | None = None) -> Path:
    """Run a pipeline, in rounds if it has them, and return its folder; see `hfkit.stages.pipeline.run_pipeline`."""
    path = Path(path).expanduser()
    pipeline = read_pipeline(path)
    if not pipeline.rounds:
        return run_pipeline(path, output_dir, flags)
    return run_rounds(pipeline, Path(output_dir or pipeline.output_dir), flags or [])


def main(given: Namespace) -> int:
    """Run `hfkit run`."""
    root = run(given.pipeline, given.output_dir, given.flags)
    say(f"all stages done, in {root}")
    return 0
