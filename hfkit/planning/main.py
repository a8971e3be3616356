"""hfkit plan configs/quickstart/pipeline.yaml

Tells what a run will need, for a stage's YAML (pretrain, sft, reward, ppo) or a pipeline's: parameters, memory against
the GPU or the machine at hand, optimizer steps, tokens, disk; and, if it does not fit, the flags that would make it
fit, each with its peak. Models are known by their configs: no weights are read or downloaded.

Flags are those of the stage, or of the pipeline: `--per_device_train_batch_size 1`, `--sft.load_in_4bit`.
"""

from hfkit.cli import verb_parser


def cli(argv: list[str] | None = None) -> int:
    """`hfkit plan`"""
    parser = verb_parser("plan", __doc__)
    parser.add_argument("config", help="a stage's YAML, or a pipeline's")
    parser.add_argument("--stage", help="the stage that the YAML is for, where its name and keys do not tell")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory to fit into, in place of this machine's")
    parser.add_argument("--output_dir", help="in place of the YAML's")
    known, flags = parser.parse_known_args(argv)
    from hfkit.console import quiet_libraries

    quiet_libraries()
    from hfkit.planning.advice import remedies
    from hfkit.planning.device import device_at_hand
    from hfkit.planning.peak import memory_of
    from hfkit.planning.reading import read_stages
    from hfkit.planning.shapes import roles_of
    from hfkit.planning.steps import steps_of
    from hfkit.planning.table import show

    stages = read_stages(known.config, known.stage, known.output_dir, flags)
    device = device_at_hand(known.memory and int(known.memory * 1e9))
    plans = []
    for stage in stages:
        memory = memory_of(stage, device)
        advice = remedies(stage, device) if memory.peak > device.capacity else []
        plans.append((stage.name, memory, steps_of(stage, roles_of(stage)), advice))
    show(plans, device, in_pipeline=len(stages) > 1)
    return 0
