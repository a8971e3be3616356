"""hfkit plan configs/quickstart/pipeline.yaml

Prints what a run will need, for the YAML of a stage that trains a model or of a pipeline: parameters, memory against
the GPU or the machine at hand, optimizer steps, tokens and disk. If it does not fit, prints the flags that would make
it fit, each with its peak. Models are known by their configs: no weights are read or downloaded.

Flags are those of the stage or of the pipeline: `--per_device_train_batch_size 1`, `--sft.load_in_4bit`.
"""

from argparse import Namespace

from hfkit.commands.plan.advice import remedies
from hfkit.commands.plan.device import find_device
from hfkit.commands.plan.peak import plan_memory
from hfkit.commands.plan.planned_stages import read_stages
from hfkit.commands.plan.shapes import roles_of
from hfkit.commands.plan.steps import plan_steps
from hfkit.commands.plan.table import print_plans


def main(given: Namespace) -> int:
    """Run `hfkit plan`."""
    stages = read_stages(given.config, given.stage, given.output_dir, given.flags)
    device = find_device(given.memory and int(given.memory * 1e9))
    plans = []
    for stage in stages:
        memory = plan_memory(stage, device)
        advice = remedies(stage, device) if memory.peak > device.capacity else []
        plans.append((stage.spec.name, memory, plan_steps(stage, roles_of(stage)), advice))
    print_plans(plans, device, in_pipeline=len(stages) > 1)
    return 0
