"""hfkit plan configs/quickstart/pipeline.yaml

Prints what a run will need, for the YAML of a stage that trains a model or of a pipeline: parameters, memory compared
with this GPU or machine, optimizer steps, tokens and disk space. If a stage does not fit, prints the flags that would
make it fit, each with its peak, and exits with status 1. Models are known by their configs: no weights are read or
downloaded.

--gpu GB plans for another GPU. Keys that a config leaves open (`dtype`, `bf16`, `gradient_checkpointing`) are planned
as on that device. The table has the memory with micro-batches of `per_device_train_batch_size` rows. If a run on
a GPU would choose others, a line has their tokens and their peak, which is then the one that must fit.

--processes N --engine fsdp2 plans each process of `accelerate launch`: the memory that it holds and the bytes that it
sends. If a stage does not fit, prints an engine and a number of processes with which it would fit.

Flags are those of the stage or of the pipeline: `--per_device_train_batch_size 1`, `--sft.load_in_4bit`.
"""

from argparse import Namespace

from hfkit.commands.plan.advice import remedies
from hfkit.commands.plan.launches import device_of_process, fitting_launch, read_launch, require_engine
from hfkit.commands.plan.read_stages import read_stages
from hfkit.commands.plan.steps import plan_steps
from hfkit.commands.plan.table import ROOMY, MicroBatchChoice, PlanRow, print_plans
from hfkit.training.memory.checkpointing import decide_checkpointing
from hfkit.training.memory.communication import sent_bytes
from hfkit.training.memory.device import device_to_plan
from hfkit.training.memory.micro_batch import decide_micro_batch
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.shapes import roles_of


def main(given: Namespace) -> int:
    """Run `hfkit plan`; return 1 if a stage does not fit."""
    launch = read_launch(given.processes, given.nodes, given.engine)
    device = device_of_process(device_to_plan(given.memory, given.gpu), launch)
    stages = read_stages(given.config, given.stage, given.output_dir, given.flags, device)
    require_engine(stages, launch)
    plans = []
    for open_stage in stages:
        stage, checkpointing = decide_checkpointing(open_stage, device, launch)
        memory, roles = plan_memory(stage, device, launch), roles_of(stage)
        run, choice = stage, None
        if (chosen := decide_micro_batch(open_stage, device, launch)) is not open_stage:
            run, of_run = decide_checkpointing(chosen, device, launch)
            choice = MicroBatchChoice(of_run, plan_memory(run, device, launch).peak)
        peak = (choice or memory).peak
        advice = [] if peak <= ROOMY * device.capacity else remedies(stage, device, launch)
        fitting = None if peak <= device.capacity else fitting_launch(stage, device, launch)
        steps, sent = plan_steps(run, roles, launch), sent_bytes(run, roles, launch)
        rows = stage.config.per_device_train_batch_size * stage.config.gradient_accumulation_steps
        choices = (stage.config.dtype, checkpointing, choice)
        plans.append(PlanRow(stage.spec.name, *choices, memory, steps, rows, sent, advice, fitting))
    print_plans(plans, device, launch, in_pipeline=len(stages) > 1)
    return 1 if any(plan.peak > device.capacity for plan in plans) else 0
