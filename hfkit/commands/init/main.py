"""hfkit init --yes --model Qwen/Qwen3-0.6B --data my-pairs.jsonl --output_dir my-run

Writes a pipeline that fits your model, your data and your memory: `pipeline.yaml` and a commented YAML for each stage,
ready for `hfkit run`. Asks for what no flag sets; with --yes it uses the defaults. It reads a sample of the data as the
stages do, measures lengths, and plans whether the base must be in 4 bits and how large a batch can be. No weights are
loaded, and no file is overwritten.

The goal is the last stage to run. The stages before it run too if there is data for them: pairs alone give SFT on the
better responses, the reward model, and PPO; with `--goal dpo`, SFT and DPO. Other flags are keys of the stages:
`--sft.learning_rate 1e-4`, `--seed 1`.

`--from FILE` translates a config of LLaMA-Factory, axolotl or TRL to the YAML of a stage that trains as the other tool
does, with its defaults. The file may also hold a command, such as `trl sft --dataset_name DATA`. If the keys of a TRL
config fit several stages, add `--goal sft`. No model and no data are read, so --output_dir is the only other flag.
"""

import sys
from argparse import Namespace
from pathlib import Path

from rich.filesize import decimal

from hfkit.commands.init.chain import START_KEY, Chain, chain_to, choose_goal, goal_problems, goals, start_stages
from hfkit.commands.init.fit import BITS, TRAIN_BATCH, fit_stages
from hfkit.commands.init.flags import given_settings
from hfkit.commands.init.questions import ask_plan, ask_sources
from hfkit.commands.init.settings import Limits, Setting, StageSettings, choose_settings
from hfkit.commands.init.sources import SAMPLE, sample_sources
from hfkit.commands.init.tokenizer import tokenizer_of
from hfkit.commands.init.translate import write_translated
from hfkit.commands.init.write import require_new, write_pipeline
from hfkit.commands.plan.read_stages import plan_configs
from hfkit.config.fields import DatasetEntry
from hfkit.config.parsing import Layer
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.hub_ids import split_revision
from hfkit.data.forms import FORMS
from hfkit.models.loading import cached_config
from hfkit.models.model_config import context_tokens
from hfkit.stages.checks.data import source_problems
from hfkit.stages.pipeline import parse_stages, stage_flags
from hfkit.stages.pipeline_file import Pipeline
from hfkit.stages.read_configs import IGNORED
from hfkit.training.memory.device import Device, device_to_plan

NEEDED = {"model": "the model to start from, a folder or a Hub id", "data": "the data: files, Hub ids or data cards"}
"""Flags without a default -> what they name."""


def main(given: Namespace) -> int:
    """Run `hfkit init`."""
    if given.foreign:
        return translate_file(given)
    asks = not given.yes and sys.stdin.isatty()
    if asks:
        ask_sources(given)
    entries = [DatasetEntry.from_text(name) for name in given.data or []]
    problems = [Problem(f"--{key}", MISSING, remedy) for key, remedy in NEEDED.items() if not getattr(given, key)]
    problems += source_problems("--data", entries) + (goal_problems(given.goal) if given.goal else [])
    if problems:
        raise ConfigError(problems)
    flags = given.flags + (["--reward_functions", *given.reward_functions] if given.reward_functions else [])
    own = given_settings(flags, goals())
    has_functions = any("reward_functions" in settings for settings in own.values())
    tokenizer, for_tokenizer = tokenizer_of(given.model, own)
    samples = sample_sources(goals(), entries, tokenizer)
    default = f"{Path(split_revision(given.model, 'main')[0]).resolve().name.lower()}-pipeline"
    if asks:
        ask_plan(given, goals(), choose_goal(samples, has_functions), device_to_plan(None, None), default)
    chain = chain_to(given.goal or choose_goal(samples, has_functions), samples, has_functions)
    own = given_settings(flags, [*chain.sources])  # no flag may be for another stage
    folder = Path(given.output_dir or default)
    require_new(folder, [*chain.sources])
    device = device_to_plan(given.memory, given.gpu)
    settings = pipeline_settings(chain, given.model, for_tokenizer, own, device)
    fit_settings(settings, own, str(folder / "runs"), device)
    path = write_pipeline(folder, settings, f"{' -> '.join(settings)} from {given.model}", str(folder / "runs"))
    report(path, chain, settings)
    return 0


def translate_file(given: Namespace) -> int:
    """Run `hfkit init --from`.

    Raises:
        ConfigError: with flags that it does not read.
    """
    unread = [f"--{key}" for key in ("model", "data", "reward_functions", "memory", "gpu") if getattr(given, key)]
    unread += [word for word in given.flags if word.startswith("--")]
    if unread:
        remedy = "--from reads one file: edit the YAML that it writes"
        raise ConfigError([Problem(flag, "with --from", remedy) for flag in unread])
    write_translated(given.foreign, given.goal, given.output_dir)
    return 0


def pipeline_settings(
    chain: Chain, model: str, for_tokenizer: StageSettings, own: dict[str, StageSettings], device: Device
) -> dict[str, StageSettings]:
    """Return the settings of each stage; those that flags give replace the chosen ones."""
    config = cached_config(*split_revision(model, "main"))
    context = context_tokens(config)
    limits = Limits(context, device.is_gpu)
    replies = [length for sources in chain.sources.values() for one in sources for length in one.replies]
    settings = {}
    for stage, sources in chain.sources.items():
        is_first = chain.sources.keys().isdisjoint(start_stages(stage))
        first = {START_KEY: Setting(model), **for_tokenizer} if is_first else {}
        settings[stage] = {**first, **choose_settings(stage, sources, replies, limits), **own[stage]}
    return settings


def fit_settings(
    settings: dict[str, StageSettings], own: dict[str, StageSettings], output_dir: str, device: Device
) -> None:
    """Add the settings that make each stage fit into memory.

    Args:
        own: those that flags give.

    Raises:
        ConfigError: a stage does not take its settings.
        HfkitError: a stage does not fit.
    """
    layers = {
        stage: [Layer({key: setting.value for key, setting in chosen.items()})] for stage, chosen in settings.items()
    }
    pipeline, root = Pipeline(output_dir, layers), Path(output_dir)
    configs = parse_stages(pipeline, stage_flags(pipeline, root, []), root, IGNORED)
    fits = fit_stages(plan_configs(configs, device), device, own)
    for stage, fit in fits.items():
        settings[stage] |= {key: Setting(value) for key, value in fit.settings.items()}
        why = f"planned peak: {decimal(fit.peak)} of {decimal(device.capacity)} ({device.name})"
        settings[stage][TRAIN_BATCH] = Setting(settings[stage][TRAIN_BATCH].value, why)
        if BITS in fit.settings:
            fine = "16 bits fit" if device.is_gpu else "the full-precision base fits"
            why = "16 bits do not fit" if fit.settings[BITS] else fine
            settings[stage][BITS] = Setting(fit.settings[BITS], why)


def report(path: Path, chain: Chain, settings: dict[str, StageSettings]) -> None:
    """Print what was chosen and why, and the next command."""
    for stage, sources in chain.sources.items():
        chosen = settings[stage]
        names = [f"{one.name} ({one.rows or f'more than {SAMPLE}'} rows)" for one in sources]
        rows, steps = (chosen[key].value for key in (TRAIN_BATCH, "gradient_accumulation_steps"))
        key = FORMS[STAGES[stage].form].length_key
        why = f": {chosen[key].why}" if chosen[key].why else ""
        say(f"{stage}: {', '.join(names)}")
        say(f"  {rows} x {steps} rows a step; {key} {chosen[key].value}{why}")
        bits = f": {chosen[BITS].why}" if chosen[BITS].why else ""
        say(f"  {chosen[TRAIN_BATCH].why}; {BITS} {chosen[BITS].value}{bits}")
    for note in chain.notes:
        say(note)
    say(f"written: {path}, {', '.join(f'{stage}.yaml' for stage in settings)}")
    say(f"next: hfkit run {path}")
