"""`hfkit plan`: its figures against tensors really allocated, what it reads, what it advises, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROWS as TINY_ROWS
from meter import TensorMeter
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

from hfkit import cli
from hfkit.config import STAGES
from hfkit.errors import ConfigError
from hfkit.models import load_trainable
from hfkit.parsing import load_config
from hfkit.planning import memory
from hfkit.planning.advice import remedies
from hfkit.planning.device import Device
from hfkit.planning.peak import memory_of, training_pass
from hfkit.planning.reading import read_stages, stage_of, with_origins
from hfkit.planning.shapes import roles_of
from hfkit.planning.steps import steps_of
from hfkit.stages.pretrain import start_model

ROOT = Path(__file__).parents[1]
CPU = Device("a machine", 10**12, 0, is_gpu=False)
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
GPT2 = {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256}
LLAMA_8B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 24, "total_episodes": 24}
LORA = {"use_peft": True, "lora_dropout": 0.0}
LONG = " ".join(row["text"] for row in TINY_ROWS["docs"])
ROWS = {
    "pretrain": [{"text": LONG[place:]} for place in range(40)],
    # every other row is shorter than max_length, so that there is padding
    "sft": [{"prompt": f"Who is {place}?", "response": LONG[: 1900 if place % 2 else 300]} for place in range(32)],
    "reward": [{"prompt": f"Who is {place % 7}?", "chosen": LONG[:540], "rejected": LONG[:500]} for place in range(32)],
    "ppo": [{"prompt": LONG[: 220 - 3 * (place % 8)]} for place in range(32)],
}


@pytest.fixture(scope="module")
def folder_of(tokenizer, tmp_path_factory):
    """folder_of(shape, weights=True, labels=None): a folder with a model of a shape, or with its config alone."""

    def make(shape: dict, weights: bool = True, labels: int | None = None) -> str:
        folder = tmp_path_factory.mktemp("model")
        settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **shape}
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if labels:
            config.num_labels = labels
        kind = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
        (kind.from_config(config) if weights else config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def llama(folder_of) -> str:
    return folder_of(LLAMA)


@pytest.fixture(scope="module")
def scorer(folder_of) -> str:
    return folder_of(LLAMA, labels=1)


@pytest.fixture
def stage_for(tmp_path, tokenizer_dir, llama, scorer):
    """stage_for(name, **changes): a small stage to plan, on rows as long as it allows."""

    def make(name: str, **changes):
        rows = tmp_path / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        values = {"datasets": [{"path": str(rows)}], "per_device_train_batch_size": 4, "max_dropped": 1.0}
        if name == "pretrain":
            values |= {"model_config": LLAMA, "tokenizer_name_or_path": str(tokenizer_dir), "block_size": 128}
        else:
            values["model_name_or_path"] = llama
        if name == "ppo":
            values |= {"reward_model_path": scorer, "total_episodes": 8, "gradient_accumulation_steps": 2}
            values |= {"num_ppo_epochs": 2, "response_length": 32, "max_prompt_length": 64}
        else:
            values |= {"max_steps": 3, "save_strategy": "no"}
        if name in ("sft", "reward"):
            values["max_length"] = 160
        values |= changes
        if values.get("model_name_or_path"):
            values.pop("model_config", None)
        return with_origins(name, load_config(STAGES[name], values, output_dir=str(tmp_path / "out")), {})

    return make


def tensor_bytes(tensors) -> int:
    """Bytes of the storages of tensors, each counted once, with what bitsandbytes keeps beside a weight."""
    storages = {}
    for tensor in tensors:
        parts = [tensor]
        if (state := getattr(tensor, "quant_state", None)) is not None:
            parts += [state.absmax, state.code]
            parts += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        storages |= {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    return sum(storages.values())


class Steps:
    """Counts, at each optimizer step within, the gradients and the optimizer's states."""

    def __enter__(self):
        self.hook = register_optimizer_step_post_hook(self.count)
        return self

    def count(self, optimizer, *_):
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.weights = tensor_bytes(trained)
        self.gradients = tensor_bytes([parameter.grad for parameter in trained])
        states = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name]
        self.states = tensor_bytes([value for value in states if torch.is_tensor(value)])

    def __exit__(self, *_):
        self.hook.remove()


def run(stage) -> None:
    import_module(f"hfkit.stages.{stage.name}").main(stage.config)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"model_config": GPT2}),
        ("pretrain", {"optim": "adamw_8bit"}),
        ("pretrain", {"optim": "sgd"}),
        ("pretrain", {"optim": "adafactor"}),
        ("sft", LORA),
        ("sft", {**LORA, "dtype": "bfloat16"}),
        ("sft", {"dtype": "bfloat16"}),
        ("sft", {**LORA, "load_in_4bit": True}),
        ("sft", {**LORA, "load_in_4bit": True, "use_bnb_nested_quant": False, "lora_target_modules": ["q_proj"]}),
        ("sft", {**LORA, "load_in_4bit": True, "bf16": True, "optim": "adamw_8bit"}),
        ("reward", {**LORA, "load_in_4bit": True}),
        ("ppo", LORA),
        ("ppo", {}),
    ],
)
def test_weights_gradients_and_optimizer_are_those_that_are_allocated(stage_for, tokenizer, name, changes):
    stage = stage_for(name, **changes)
    plan = memory_of(stage, CPU)
    with Steps() as steps:
        run(stage)
    assert sum(role.gradients for role in plan.roles) == steps.gradients
    assert sum(role.optimizer for role in plan.roles) == pytest.approx(steps.states, rel=0.01)
    trained = [weight for role in roles_of(stage) for weight in role.trained]
    assert memory.weight_bytes(trained) == steps.weights
    if name == "ppo":
        return
    if name == "pretrain":
        model = start_model(stage.config, tokenizer)
    else:
        model = load_trainable(stage.config, "SEQ_CLS" if name == "reward" else "CAUSAL_LM")
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert plan.roles[0].weights == pytest.approx(tensor_bytes(frozen) + steps.weights, rel=0.01)
    assert plan.roles[0].parameters == pytest.approx(counted(model), rel=1e-6)


def counted(model) -> int:
    """Parameters of a model, those that are packed two a byte among them."""
    return sum(torch.Size((getattr(p, "quant_state", None) or p).shape).numel() for p in model.parameters())


def test_8_bit_weights_are_those_that_bitsandbytes_holds(stage_for, llama):
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(llama, quantization_config=quantization, dtype=torch.float32)
    scales = [parameter.SCB for parameter in model.parameters() if getattr(parameter, "SCB", None) is not None]
    frozen = [
        weight for weight in roles_of(stage_for("sft", **LORA, load_in_8bit=True))[0].weights if not weight.adapter
    ]
    assert len(scales) == sum(weight.bits == 8 for weight in frozen) == 4 * 7
    assert memory.weight_bytes(frozen) == tensor_bytes([*model.parameters(), *scales])


def test_with_lora_the_roles_of_ppo_share_one_base(stage_for, folder_of, tmp_path):
    base = folder_of(LLAMA)
    reward = Path(shutil.copytree(base, tmp_path / "reward"))
    adapter = {"base_model_name_or_path": base, "task_type": "SEQ_CLS", "peft_type": "LORA", "r": 16}
    (reward / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": "all-linear"}))
    plan = memory_of(stage_for("ppo", **LORA, model_name_or_path=base, reward_model_path=str(reward)), CPU)
    policy, reference, reward, value = plan.roles
    assert policy.weights > 4 * (reference.weights + reward.weights + value.weights) / 3
    assert [role.trainable > 0 for role in plan.roles] == [True, False, False, True]
    assert reference.weights == 4 * policy.trainable
    assert reward.weights == value.weights == 4 * value.trainable
    assert policy.parameters == reference.parameters > reward.parameters == value.parameters


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"bf16": True}),
        ("pretrain", {"attn_implementation": "eager"}),
        ("pretrain", {"gradient_checkpointing": True}),
        ("pretrain", {"model_config": {**LLAMA, "num_key_value_heads": 4}}),
        ("sft", {}),
        ("sft", LORA),
        ("sft", {"use_peft": True}),
        ("sft", {"use_peft": True, "bf16": True}),
        ("sft", {**LORA, "bf16": True}),
        ("sft", {**LORA, "dtype": "bfloat16"}),
        ("sft", {**LORA, "dtype": "bfloat16", "bf16": True}),
        ("sft", {**LORA, "attn_implementation": "eager"}),
        ("sft", {**LORA, "gradient_checkpointing": True}),
        ("reward", LORA),
    ],
)
def test_activations_are_what_autograd_saves(stage_for, tokenizer, name, changes):
    stage = stage_for(name, **changes)
    if name == "pretrain":
        model = start_model(stage.config, tokenizer)
    else:
        model = load_trainable(stage.config, "SEQ_CLS" if name == "reward" else "CAUSAL_LM")
    if stage.config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    role = roles_of(stage)[0]
    length = stage.config.block_size if name == "pretrain" else stage.config.max_length
    assert kept_by(model, name, length, stage.config.bf16) == pytest.approx(
        memory.kept_bytes(role.decoder, training_pass(stage, role, 3, length, CPU)), rel=0.05
    )


def kept_by(model, name: str, length: int, bf16: bool | None) -> int:
    """Bytes that autograd keeps of a forward pass on 3 rows, parameters apart; of SFT and reward, one is padded."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(5, 200, (3, length))
    mask = torch.ones_like(ids)
    if name != "pretrain":
        mask[0, -9:] = 0
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bool(bf16)),
    ):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return tensor_bytes(kept.values())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"gradient_checkpointing": True}),
        ("pretrain", {"gradient_accumulation_steps": 2, "bf16": True}),
        ("sft", {}),
        ("sft", LORA),
        ("sft", {**LORA, "gradient_checkpointing": True}),
        ("sft", {**LORA, "loss_type": "nll"}),
        ("sft", {**LORA, "load_in_4bit": True}),
        ("sft", {**LORA, "load_in_4bit": True, "bf16": True}),
        ("reward", LORA),
        ("reward", {"gradient_checkpointing": True}),
        ("ppo", LORA),
        ("ppo", {**LORA, "bf16": True}),
        ("ppo", {**LORA, "gradient_checkpointing": True}),
        ("ppo", {"gradient_checkpointing": True, "response_length": 80}),
        ("ppo", {**LORA, "gradient_checkpointing": True, **ONE_BY_ONE}),
    ],
)
def test_the_peak_is_that_of_all_tensors_of_a_run(stage_for, name, changes):
    stage = stage_for(name, **changes)
    with TensorMeter() as meter:
        run(stage)
    assert memory_of(stage, CPU).peak == pytest.approx(meter.peak, rel=0.15)


def plan_8b(folder_of, tmp_path, **changes):
    """PPO on an 8B Llama, LoRA over 4 bits, on 512 + 512 tokens; no weights anywhere."""
    policy = folder_of(LLAMA_8B, weights=False)
    reward = Path(shutil.copytree(policy, tmp_path / "reward"))
    adapter = {"base_model_name_or_path": policy, "task_type": "SEQ_CLS", "peft_type": "LORA", "r": 16}
    (reward / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": "all-linear"}))
    (tmp_path / "prompts.jsonl").write_text(json.dumps(ROWS["ppo"][0]) + "\n")
    values = {"model_name_or_path": policy, "reward_model_path": str(reward), "use_peft": True, "load_in_4bit": True}
    values |= {"datasets": [{"path": str(tmp_path / "prompts.jsonl")}], "max_prompt_length": 512}
    values |= {"response_length": 512, "per_device_train_batch_size": 1, "bf16": True, "gradient_checkpointing": True}
    config = load_config(STAGES["ppo"], {**values, **changes}, output_dir=str(tmp_path / "out"))
    return with_origins("ppo", config, {})


def test_ppo_on_an_8b_llama_fits_into_24_gb(folder_of, tmp_path):
    card = Device("a card", 24 * 10**9, 600_000_000, is_gpu=True)
    stage = plan_8b(folder_of, tmp_path, gradient_accumulation_steps=8)
    plan = memory_of(stage, card)
    assert plan.roles[0].parameters == 8_030_261_248 + 41_943_040
    assert plan.peak < card.capacity
    whole = memory_of(plan_8b(folder_of, tmp_path / "whole", load_in_4bit=False), card)
    assert whole.peak > card.capacity


@pytest.mark.parametrize(
    ("capacity", "bits", "enough"), [(15, "load_in_8bit", True), (10, "load_in_4bit", True), (8, "load_in_4bit", False)]
)
def test_advice_is_of_flags_that_lower_the_peak_and_says_which_are_enough(folder_of, tmp_path, capacity, bits, enough):
    card = Device("a card", capacity * 10**9, 600_000_000, is_gpu=True)
    stage = plan_8b(folder_of, tmp_path, load_in_4bit=False, gradient_checkpointing=False, dtype="bfloat16")
    now, found = memory_of(stage, card).peak, remedies(stage, card)
    assert now > card.capacity
    assert all(remedy.peak < now for remedy in found)
    assert any(remedy.flags == {"gradient_checkpointing": True} for remedy in found)
    assert (found[-1].peak <= card.capacity) == enough
    assert found[-1].flags.keys() >= {"gradient_checkpointing", bits}


def test_smaller_batches_keep_the_rows_of_an_optimizer_step(stage_for):
    stage = stage_for("sft", per_device_train_batch_size=8)
    device = Device("a small machine", int(memory_of(stage, CPU).peak * 0.6), 0, is_gpu=False)
    flags = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert flags in [remedy.flags for remedy in remedies(stage, device) if remedy.peak <= device.capacity]


def test_steps_and_tokens_are_counted_in_local_files(stage_for, rows_file):
    stage = stage_for("sft", max_steps=-1, num_train_epochs=2.0, test_split_size=0.25, gradient_accumulation_steps=2)
    steps = steps_of(stage, roles_of(stage))
    assert (steps.steps, steps.tokens) == (6, 6 * 8 * 160)  # 24 of 32 rows, 3 steps of 8 an epoch
    ppo = steps_of(stage := stage_for("ppo", num_mini_batches=2, num_ppo_epochs=3), roles_of(stage))
    assert (ppo.steps, ppo.tokens) == (3 * 2, 8 * 96)
    unknown = steps_of(stage := stage_for("pretrain", max_steps=-1), roles_of(stage))
    assert (unknown.steps, unknown.unknown) == (None, "documents are packed into rows once they are encoded")
    unknown = stage_for("sft", max_steps=-1, datasets=[{"path": "someone/rows"}])
    assert steps_of(unknown, roles_of(unknown)).unknown == "someone/rows is not on this machine"


@pytest.mark.parametrize(("name", "changes"), [("pretrain", {}), ("sft", {**LORA, "lora_r": 64}), ("ppo", {})])
def test_the_disk_is_that_of_a_run(stage_for, name, changes):
    stage = stage_for(name, **changes, save_strategy="steps", save_steps=1, save_total_limit=2)
    run(stage)
    folder = Path(stage.config.output_dir)
    files = [path for kind in ("*.safetensors", "optimizer.pt") for path in folder.rglob(kind)]
    disk = steps_of(stage, roles_of(stage)).disk
    assert disk == pytest.approx(sum(path.stat().st_size for path in files), rel=0.15)


PIPELINE = {"output_dir": "runs", "stages": {name: f"{name}.yaml" for name in STAGES}}


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """The YAML of a pipeline of which nothing has run, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    for name in ("tokenizer", "pretrain", "sft", "reward", "ppo"):
        shutil.copy(ROOT / f"configs/quickstart/{name}.yaml", tmp_path)
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(PIPELINE))
    return "pipeline.yaml"


def test_a_pipeline_is_planned_from_configs_alone(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--sft.lora_r", "8", "--ppo.total_episodes", "128"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in ("pretrain", "sft", "reward", "ppo policy") if f"│ {name} " not in shown] == []
    stages = {stage.name: stage for stage in read_stages(pipeline, None, None, ["--sft.lora_r", "8"])}
    assert stages["sft"].start.config.vocab_size == 1024  # the tokenizer's, which is not trained yet
    assert stages["ppo"].start.source.adapter["r"] == stages["ppo"].reward.source.adapter["r"] == 8
    assert not Path("runs").exists()


def test_other_problems_of_a_pipeline_are_told_as_usual(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--sft.lora_r", "0", "--ppo.kl_coeff", "1"]) == 2
    told = capsys.readouterr().err
    assert "sft.lora_r: 0 -> must be above 0" in told
    assert "ppo.--kl_coeff: '1' -> unknown; did you mean --kl_coef?" in told
    assert len(told.splitlines()) == 3


def test_what_does_not_fit_comes_with_flags(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--memory", "0.9"]) == 0
    shown = capsys.readouterr().out
    assert "reward does not fit" in shown
    assert "--reward.gradient_checkpointing true" in shown


def test_no_weights_are_read(folder_of, tmp_path, capsys):
    folder = folder_of(LLAMA_8B, weights=False)
    assert not list(Path(folder).glob("*.safetensors"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROWS["sft"][0]) + "\n")
    (tmp_path / "sft-8b.yaml").write_text(yaml.safe_dump({"datasets": [{"path": str(rows)}], "use_peft": True}))
    command = ["plan", str(tmp_path / "sft-8b.yaml"), "--model_name_or_path", folder, "--load_in_4bit"]
    assert cli.main(command) == 0
    assert "8,072.20 M" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "keys", "stage"),
    [
        ("sft.yaml", {}, "sft"),
        ("sft-8b.yaml", {"max_length": 64}, "sft"),
        ("mine.yaml", {"reward_model_path": "x", "use_peft": True}, "ppo"),
        ("mine.yaml", {"block_size": 64}, "pretrain"),
        ("mine.yaml", {"center_rewards_coefficient": 0.01, "max_length": 64}, "reward"),
    ],
)
def test_the_stage_is_told_by_name_or_keys(file, keys, stage):
    assert stage_of(file, keys) == stage


@pytest.mark.parametrize("keys", [{"max_length": 64}, {}, {"block_size": 64, "kl_coef": 0.1}])
def test_an_ambiguous_stage_is_asked_for(keys):
    with pytest.raises(ConfigError, match="say which stage it is for: --stage"):
        stage_of("mine.yaml", keys)


def test_errors_are_told_without_a_traceback(folder_of, tmp_path, capsys):
    def told(*words) -> str:
        assert cli.main(["plan", *words]) == 2
        return capsys.readouterr().err

    assert "cannot be read: No such file or directory" in told(str(tmp_path / "none.yaml"))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"datasets": [{"path": "rows.jsonl"}], "max_length": 64}))
    assert "--stage pretrain|sft|reward|ppo" in told(str(mine))
    assert "plans are of pretrain, sft, reward, ppo" in told(str(mine), "--stage", "tokenizer")
    assert "model_name_or_path: None -> missing" in told(str(mine), "--stage", "sft")
    folder = Path(folder_of(LLAMA, weights=False))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llamb"}))
    assert "llamb" in told(str(mine), "--stage", "sft", "--model_name_or_path", str(folder))
    encoder = folder_of({"model_type": "t5", "d_model": 32, "num_layers": 1}, weights=False)
    assert "T5" in told(str(mine), "--stage", "sft", "--model_name_or_path", encoder)


def test_help_is_light():
    code = "import hfkit.planning.main as m, sys\ntry: m.cli(['-h'])\nfinally: print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.time()
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.stdout.startswith("usage: hfkit plan") and ran.stdout.endswith("\nFalse\n")
    assert time.time() - started < 2  # 0.1 s on an idle machine


# A run of a model whose weights are most of what there is, in a process of its own.
MEASURED = """
import json, re, sys
from pathlib import Path
from importlib import import_module
from hfkit.config import STAGES
from hfkit.parsing import load_config
from hfkit.planning.device import device_at_hand
from hfkit.planning.peak import memory_of
from hfkit.planning.reading import with_origins
from torch.optim.optimizer import register_optimizer_step_post_hook
name, values = sys.argv[1], json.loads(sys.argv[2])
config = load_config(STAGES[name], values)
stage = import_module(f"hfkit.stages.{name}")
plan = memory_of(with_origins(name, config, {}), device_at_hand())
# From the first step on, and without the checkpoint's mapped pages, which are resident but can go at any time.
def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
mapped = status("RssFile")
hook = register_optimizer_step_post_hook(lambda *_: (Path("/proc/self/clear_refs").write_text("5"), hook.remove()))
stage.main(config)
print(json.dumps([plan.peak, status("VmHWM") - (status("RssFile") - mapped), plan.taken]))
"""
SHAPE_100M = {"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
SHAPE_100M |= {"num_attention_heads": 12, "max_position_embeddings": 256}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("pretrain", SHAPE_100M, {}),
        ("pretrain", {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 256}, {}),
        ("sft", {**SHAPE_100M, "num_hidden_layers": 20}, {**LORA, "load_in_4bit": True}),
    ],
)
def test_the_peak_is_the_resident_memory_of_a_run(name, shape, changes, folder_of, tokenizer_dir, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    values = {"datasets": [{"path": str(rows)}], "per_device_train_batch_size": 2, "max_steps": 3, "max_dropped": 1.0}
    values |= {"save_strategy": "no", "output_dir": str(tmp_path / "out"), **changes}
    if name == "pretrain":
        values |= {"model_config": shape, "tokenizer_name_or_path": str(tokenizer_dir), "block_size": 64}
    else:
        values |= {"model_name_or_path": folder_of(shape), "max_length": 64}
    # what is freed goes back to the system at once, as it does on a GPU
    env = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURED, name, json.dumps(values)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    planned, measured, taken = json.loads(ran.stdout.splitlines()[-1])
    print(f"{name}: planned {planned / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB, libraries {taken / 1e6:.0f} MB")
    assert planned == pytest.approx(measured, rel=0.15)
