"""hfkit run configs/quickstart/pipeline.yaml --output_dir runs/mine

Runs the stages of a pipeline in their order, each into its own folder of `output_dir`, and hands each output on:

    output_dir: runs/quickstart
    stages:            # any of them, in this order
      tokenizer: tokenizer.yaml     # paths beside the pipeline's own file
      pretrain: pretrain.yaml       # gets tokenizer_name_or_path
      sft: sft.yaml                 # gets model_name_or_path: the pretrained model
      reward: reward.yaml           # gets model_name_or_path: the SFT model
      ppo: ppo.yaml                 # gets that too, and reward_model_path

What a stage's YAML sets itself is left alone. What is done with the same config and data is skipped, what was
interrupted goes on. `--sft.learning_rate 1e-4` sets a flag of one stage, `--seed 1` that of all; with `--push_to_hub
--hub_model_id USER/NAME` each model is pushed, to USER/NAME-sft and so on.
"""

from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

from hfkit.cli import verb_parser
from hfkit.config import STAGES
from hfkit.config_fields import HubFields
from hfkit.errors import ConfigError, Problem

# What each stage takes from which earlier one.
INPUTS = {
    "tokenizer": {},
    "pretrain": {"tokenizer_name_or_path": "tokenizer"},
    "sft": {"model_name_or_path": "pretrain"},
    "reward": {"model_name_or_path": "sft"},
    "ppo": {"model_name_or_path": "sft", "reward_model_path": "reward"},
}


def run_pipeline(path: str | Path, output_dir: str | None = None, flags: list[str] | None = None) -> Path:
    """Runs a pipeline and returns its folder.

    Args:
        path: the pipeline's YAML.
        output_dir: in place of the YAML's.
        flags: `["--seed", "1", "--sft.learning_rate", "1e-4"]`.

    Raises:
        ConfigError: before anything runs, with the problems of every stage's config.
    """
    from hfkit.console import say

    pipeline = read_pipeline(Path(path))
    root = Path(output_dir or pipeline["output_dir"])
    argvs = stage_flags(pipeline, Path(path).parent, root, flags or [])
    check_all(argvs, root)
    from accelerate.utils import release_memory  # seconds, which a faulty config should not take

    for place, (stage, argv) in enumerate(argvs.items(), 1):
        say(f"== {place}/{len(argvs)} {stage}")
        config = parse_stage(stage, argv)
        import_module(f"hfkit.stages.{stage}").main(config)
        release_memory()  # trainers refer to themselves, and a GPU may have no room for the models of two stages
    return root


def read_pipeline(path: Path) -> dict:
    """The pipeline's YAML, checked: known stages, files that are there.

    Raises:
        ConfigError: with every problem.
    """
    from hfkit.strict_yaml import read_yaml

    problems: list[Problem] = []
    pipeline = read_yaml(str(path), problems)
    if pipeline is None:
        raise ConfigError(problems, source=str(path))
    problems += [
        Problem(key, value, "a pipeline has output_dir and stages")
        for key, value in pipeline.items()
        if key not in ("output_dir", "stages")
    ]
    stages = pipeline.get("stages")
    if not isinstance(pipeline.get("output_dir"), str):
        problems.append(Problem("output_dir", pipeline.get("output_dir"), "the folder that the stages write into"))
    if not isinstance(stages, dict) or not stages:
        problems.append(Problem("stages", stages, f"a mapping from stage to its YAML; stages: {', '.join(STAGES)}"))
        stages = {}
    for stage, file in stages.items():
        if stage not in STAGES:
            problems.append(Problem(f"stages.{stage}", file, f"stages are {', '.join(STAGES)}"))
        elif not (path.parent / str(file)).is_file():
            problems.append(Problem(f"stages.{stage}", file, f"no such file in {path.parent}"))
    if problems:
        raise ConfigError(problems, source=str(path))
    return pipeline


def stage_flags(pipeline: dict, beside: Path, root: Path, flags: list[str]) -> dict[str, list[str]]:
    """The command line of each stage, in the order of the stages.

    Raises:
        ConfigError: a flag for a stage that the pipeline does not have.
    """
    stages = [stage for stage in STAGES if stage in pipeline["stages"]]
    argvs = {}
    for stage in stages:
        file = beside / pipeline["stages"][stage]
        argvs[stage] = ["--config", str(file), "--output_dir", str(root / stage), *resume(stage)]
        own = own_keys(file)
        for key, source in INPUTS[stage].items():
            if source in stages and key not in own and not (stage == "pretrain" and "model_name_or_path" in own):
                argvs[stage] += [f"--{key}", str(root / source)]
    problems = []
    for flag in group_flags(flags):
        name, _, rest = flag[0].removeprefix("--").partition(".")
        if not rest:
            for stage, argv in argvs.items():
                argv += flag_of(stage, flag)
            continue
        if name not in argvs:
            problems.append(Problem(flag[0], " ".join(flag[1:]), f"the pipeline has: {', '.join(stages)}"))
            continue
        own = [f"--{rest}", *flag[1:]]
        if key_of(own) == "output_dir":
            problems.append(Problem(flag[0], " ".join(flag[1:]), f"the pipeline puts it into {root / name}"))
            continue
        # in place of the same flag for all stages, and of what an earlier stage hands on
        others = [other for other in group_flags(argvs[name]) if key_of(other) != key_of(own)]
        argvs[name] = [word for words in [*others, own] for word in words]
    if problems:
        raise ConfigError(problems)
    return argvs


def flag_of(stage: str, flag: list[str]) -> list[str]:
    """A flag of all stages as one of them gets it.

    What is said of the Hub is for the models, since each has the tokenizer with it; its name there ends in the stage's.
    """
    key, _, value = flag[0].removeprefix("--").partition("=")
    key = key.replace("-", "_")
    if key not in {field.name for field in fields(HubFields)}:
        return flag
    if stage == "tokenizer":
        return []
    return [f"--{key}", f"{value or ' '.join(flag[1:])}-{stage}"] if key == "hub_model_id" else flag


def resume(stage: str) -> list[str]:
    """An interrupted stage of a pipeline always goes on."""
    return ["--resume_from_checkpoint"] if hasattr(STAGES[stage], "resume_from_checkpoint") else []


def own_keys(file: Path) -> set[str]:
    """The keys that a stage's YAML sets; its faults are for its own parsing to tell."""
    from hfkit.strict_yaml import read_yaml

    return set(read_yaml(str(file), []) or {})


def group_flags(flags: list[str]) -> list[list[str]]:
    """Flags with the values that follow them."""
    groups: list[list[str]] = []
    for word in flags:
        if word.startswith("--"):
            groups.append([word])
        elif groups:
            groups[-1].append(word)
        else:
            raise ConfigError([Problem(word, None, "not a flag; flags are --seed 1 or --sft.learning_rate 1e-4")])
    return groups


def key_of(flag: list[str]) -> str:
    """The key that a flag sets, in whichever spelling."""
    return flag[0].removeprefix("--").partition("=")[0].replace("-", "_").removeprefix("no_")


def parse_stage(stage: str, argv: list[str], config_class: type | None = None):
    """The config of a stage from its command line; of the stage's own class, or of one that is made of that."""
    from hfkit.parsing import parse

    return parse(config_class or STAGES[stage], argv, prog=f"hfkit {stage}", description=stage)


def check_all(argvs: dict[str, list[str]], root: Path) -> None:
    """Parses every stage's config before any runs; what earlier stages will make need not be there yet."""
    problems = []
    for stage, argv in argvs.items():
        try:
            parse_stage(stage, argv, before_others(stage, pending_keys(stage, argvs, root)))
        except ConfigError as error:
            problems += [Problem(f"{stage}.{one.key}", one.value, one.remedy) for one in error.problems]
    if problems:
        raise ConfigError(problems)


def pending_keys(stage: str, argvs: dict[str, list[str]], root: Path) -> list[str]:
    """The keys of a stage that name the folder of an earlier one, which need not be there yet."""
    earlier = [str(root / other) for other in list(argvs)[: list(argvs).index(stage)]]
    given = group_flags(argvs[stage])
    return [key for key in INPUTS[stage] if any([f"--{key}", folder] in given for folder in earlier)]


def before_others(stage: str, pending: list[str]) -> type:
    """The config class of a stage, that tells no problems of what an earlier stage will make.

    Args:
        pending: the keys of that.
    """

    class Planned(STAGES[stage]):
        def problems(self) -> list[Problem]:
            # a folder, also where its name could be a Hub id
            folders = {key: str(Path(getattr(self, key)).absolute()) for key in pending}
            found = STAGES[stage].problems(replace(self, **folders))
            return [problem for problem in found if problem.key not in pending]

    return Planned


def cli(argv: list[str] | None = None) -> int:
    """`hfkit run`"""
    from hfkit.console import quiet_libraries, say

    parser = verb_parser("run", __doc__)
    parser.add_argument("pipeline", help="the pipeline's YAML")
    parser.add_argument("--output_dir", help="in place of the YAML's")
    known, flags = parser.parse_known_args(argv)
    quiet_libraries()
    root = run_pipeline(known.pipeline, known.output_dir, flags)
    say(f"all stages done, in {root}")
    return 0
