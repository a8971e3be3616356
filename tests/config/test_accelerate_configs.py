"""The files of `configs/accelerate`: how `accelerate launch` reads each, and that they ship."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from forks import run
from processes import launch
from safetensors.torch import load_file

from hfkit.core.launch import FSDP_REPLICAS
from hfkit.core.shipped import shipped_folder

FOLDER = shipped_folder("configs") / "accelerate"
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "fsdp2_qlora": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}
ZERO = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
}
VARIABLES = {
    "ddp": {},
    "fsdp2": FSDP2,
    "fsdp2_qlora": {**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"},
    "zero2": {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false"},
    "zero3": {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"},
}
LAUNCH = """
import sys
from accelerate.commands.launch import launch_command, launch_command_parser

script = 'env > "$0.$RANK"'
for config, output in zip(sys.argv[1::2], sys.argv[2::2]):
    words = ["--config_file", config, "--num_processes", "2", "--main_process_port", "0", "--no_python"]
    launch_command(launch_command_parser().parse_args([*words, "sh", "-c", script, output]))
"""


def test_each_file_is_one_of_an_engine():
    assert {path.stem for path in FOLDER.iterdir()} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_loads_it_and_knows_every_key(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type, config.num_machines, config.num_processes) == (KINDS[name], 1, -1)
    assert config.mixed_precision is None  # hfkit's `bf16` decides
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()


@pytest.fixture(scope="module")
def environments(tmp_path_factory) -> dict[str, list[dict]]:
    """The environments of the two processes that each file starts."""
    folder = tmp_path_factory.mktemp("environments")
    names = [name for name in KINDS if find_spec("deepspeed") or not name.startswith("zero")]
    ran = run(LAUNCH, *(word for name in names for word in (FOLDER / f"{name}.yaml", folder / name)))
    assert ran.returncode == 0, ran.stderr
    return {name: [read_variables(folder / f"{name}.{rank}") for rank in range(2)] for name in names}


def read_variables(path: Path) -> dict[str, str]:
    """The output of `env` without variables of several lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_the_lines_of_the_page_for_hybrid_sharding_are_those_of_accelerate(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "many_gpus.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```yaml\n(parallelism_config:.*?)```", page, re.DOTALL)
    (tmp_path / "hybrid.yaml").write_text((FOLDER / "fsdp2.yaml").read_text() + lines)
    ran = run(LAUNCH, tmp_path / "hybrid.yaml", tmp_path / "hybrid")
    assert ran.returncode == 0, ran.stderr
    variables = read_variables(tmp_path / "hybrid.0")
    assert (variables["ACCELERATE_USE_PARALLELISM_CONFIG"], variables["FSDP_VERSION"]) == ("true", "2")
    assert (variables[FSDP_REPLICAS], variables["PARALLELISM_CONFIG_DP_SHARD_SIZE"]) == ("2", "8")


@pytest.mark.parametrize("name", KINDS)
def test_its_processes_get_the_variables_of_its_engine(name, environments):
    if name not in environments:
        pytest.skip("needs deepspeed")
    for rank, variables in enumerate(environments[name]):
        assert (variables["RANK"], variables["WORLD_SIZE"]) == (str(rank), "2")
        assert variables["ACCELERATE_MIXED_PRECISION"] == "no"
        assert {key: variables.get(key) for key in VARIABLES[name]} == VARIABLES[name]
        engines = {key for key in variables if key.startswith("ACCELERATE_USE_")}
        assert engines == {key for key in VARIABLES[name] if key.startswith("ACCELERATE_USE_")}


def run_stage_in_process(stage: str, config) -> None:
    """Run a stage."""
    import_module(f"hfkit.stages.{stage}").main(config)


@pytest.mark.distributed
@pytest.mark.parametrize("name", [name for name in KINDS if name != "ddp"])
def test_a_launch_with_its_variables_trains_as_one_process(name, config_of, tmp_path):
    if name.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    settings = {"max_steps": 2, "logging_steps": 1, "lora_dropout": 0.0}
    settings |= {"load_in_4bit": True} if name == "fsdp2_qlora" else {"use_peft": False, "lora_r": None}
    run_stage_in_process("sft", config_of("sft", tmp_path / "one", per_device_train_batch_size=4, **settings))
    config = config_of("sft", tmp_path / "two", per_device_train_batch_size=2, **settings)
    launch(run_stage_in_process, "sft", config, engine=name.partition("_")[0], environment=VARIABLES[name])
    one, two = (
        {key: value for file in (tmp_path / folder).glob("*.safetensors") for key, value in load_file(file).items()}
        for folder in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-4)
