"""python benchmarks/many_gpus.py

Estimates training on 1 to 1,024 GPUs: the share of rollouts and of communication, and the speed of each GPU compared
with that of one alone. Nothing is timed: it is arithmetic from the figures in `ASSUMED`, each with its source, and
from two runs measured on one H200 (`records/NVIDIA-H200/`). Also counts the memory of each GPU, as `hfkit plan` does.

Writes benchmarks/records/many_gpus.json and docs/images/many_gpus.png.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

from transformers import AutoConfig

from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.training.memory.device import gpu_of
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.planned_stage import plan_stage
from hfkit.training.memory.processes import Launch
from hfkit.training.plots import draw_png

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
COUNTS = (1, 8, 64, 256, 1024)
GPUS = {
    "H100": {"flop_per_second": 989.4e12, "nvlink": 450e9, "network": 50e9},
    "A100": {"flop_per_second": 312e12, "nvlink": 300e9, "network": 25e9},
}
ASSUMED = {
    "flop_per_second": "dense bf16: NVIDIA's data sheets of H100 SXM and A100 SXM",
    "nvlink": "bytes a second in one direction: half of 900 and 600 GB/s, the same data sheets",
    "network": "bytes a second of one GPU: 400 Gb/s InfiniBand NDR (DGX H100), 200 Gb/s HDR (DGX A100)",
    "link_use": "0.8 of a link's bytes a second reach the tensors; assumed",
    "hop_seconds": "10 microseconds for each of the n - 1 hops of a ring; assumed",
    "overlap": "FSDP2 sends while it computes: fully (best), or not at all (worst)",
    "compute": "the share of the peak that SFT of 8B in bf16 reached on one H200: sft_vs_trl_8B-bf16-packed.json",
    "ppo": "seconds of rollout, scoring and update of 8B, QLoRA, on one H200: ppo_vs_trl_8B-4bit.json",
    "rollouts": "each process samples its own responses of the same length: no process waits for a longer one",
    "rows": "a GPU's work stays the same, so the batch grows with their number",
}
LINK_USE, HOP, NODE = 0.8, 10e-6, 8
PARAMETERS, LAYERS, LORA = 8.03e9, 32, 42e6
REPLIES, PASSES, EPOCHS = 32, 2, 4
"""Of the measured update of PPO on one GPU: two passes of 16 responses in each of four optimizer steps."""
TOKENS = 16_384
"""Of a GPU in one step: eight rows of 2,048."""
MODELS = {
    "8B": ("llama", 4096, 14336, 32, 32, 128256),
    "32B": ("qwen3", 5120, 25600, 64, 64, 151936),
    "70B": ("llama", 8192, 28672, 80, 64, 128256),
}
METHODS = {"full": {}, "LoRA": {"use_peft": True}, "QLoRA": {"use_peft": True, "load_in_4bit": True}}


def ring_seconds(sent: float, messages: int, gpu: dict, count: int) -> float:
    """Return the seconds in which a GPU sends bytes around rings of `count`, in so many messages."""
    link = gpu["nvlink"] if count <= NODE else gpu["network"]
    return sent * (count - 1) / count / (link * LINK_USE) + messages * (count - 1) * HOP


def measured() -> tuple[float, dict[str, float], float]:
    """Return the share of an H200's peak that SFT of 8B reaches, the seconds of PPO's phases, and its reply tokens."""
    sft = json.loads((RECORDS / "NVIDIA-H200" / "sft_vs_trl_8B-bf16-packed.json").read_text())["medians"]["hfkit"]
    ppo = json.loads((RECORDS / "NVIDIA-H200" / "ppo_vs_trl_8B-4bit.json").read_text())["speed"]["runs"]["hfkit"][-1]
    use = sft["model_flop"] / sft["seconds"] / GPUS["H100"]["flop_per_second"]
    return use, ppo["phases"], REPLIES * ppo["reply_length"]


def row(name: str, gpu: str, count: int, compute: float, sending: float, tokens: float, rollout: float = 0.0) -> dict:
    """Return a line of the record: seconds of a step, and efficiency at full overlap (best) and none (worst).

    Tokens a second and GPU hours are those without overlap. Nothing overlaps with rollouts.
    """
    learning = compute - rollout
    best, worst = rollout + max(learning, sending), compute + sending
    return {
        "workload": name,
        "gpu": gpu,
        "gpus": count,
        "compute_seconds": round(compute, 3),
        "sending_seconds": round(sending, 3),
        "rollout_share": round(rollout / compute, 3),
        "efficiency_best": round(compute / best, 3),
        "efficiency_worst": round(compute / worst, 3),
        "tokens_per_second": round(count * tokens / worst),
        "gpu_hours_per_billion_tokens": round(1e9 / tokens * worst / 3600, 1),
    }


def sft_rows(gpu: str, use: float) -> list[dict]:
    """Full fine-tuning of 8B under FSDP2: weights are gathered twice and gradients scattered once, in bf16.

    With hybrid sharding each machine holds a copy, and each GPU sums its share of the gradients with other machines.
    """
    figures, whole = GPUS[gpu], 2 * PARAMETERS
    compute = 6 * PARAMETERS * TOKENS / (figures["flop_per_second"] * use)
    rows = []
    for count in COUNTS:
        sending = ring_seconds(3 * whole, 3 * LAYERS, figures, count) if count > 1 else 0.0
        rows.append(row("SFT, full, FSDP2", gpu, count, compute, sending, TOKENS))
    for count in COUNTS[2:]:
        nodes, inside = count // NODE, ring_seconds(3 * whole, 3 * LAYERS, figures, NODE)
        between = 2 * whole / NODE * (nodes - 1) / nodes / (figures["network"] * LINK_USE)
        sending = inside + between + 2 * LAYERS * (nodes - 1) * HOP
        rows.append(row("SFT, full, hybrid FSDP2", gpu, count, compute, sending, TOKENS))
    return rows


def ppo_rows(phases: dict[str, float], tokens: float) -> list[dict]:
    """PPO of 8B: QLoRA under DDP, and full fine-tuning under FSDP2.

    DDP sums the gradients of two adapters, in fp32. FSDP2 gathers the policy to sample and four models to score, and in
    each pass of the update two models twice, and scatters their gradients, all in bf16. Of trained weights a pass
    computes 6 operations for 4 of frozen ones.
    """
    whole = {**phases, "update": 1.5 * phases["update"]}
    gathered = 2 * PARAMETERS * (1 + 4 + 2 * 3 * PASSES * EPOCHS)
    kinds = {
        "PPO, QLoRA, DDP": (phases, 2 * 2 * 4 * LORA * EPOCHS, 2 * EPOCHS),
        "PPO, full, FSDP2": (whole, gathered, LAYERS * (1 + 4 + 2 * 3 * PASSES * EPOCHS)),
    }
    rows = []
    for name, (seconds, sent, messages) in kinds.items():
        for count in COUNTS:
            sending = ring_seconds(sent, messages, GPUS["H100"], count) if count > 1 else 0.0
            rows.append(row(name, "H100", count, sum(seconds.values()), sending, tokens, seconds["rollout"]))
    return rows


def cards_needed() -> list[dict]:
    """Return the peak of a process of SFT by model, method and number of GPUs, in GB, as `hfkit plan` counts it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, hidden, mlp, layers, heads, vocab) in MODELS.items():
            shape = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
            shape |= {"num_attention_heads": heads, "num_key_value_heads": 8, "vocab_size": vocab, "dtype": "bfloat16"}
            AutoConfig.for_model(kind, **shape, head_dim=128, tie_word_embeddings=False).save_pretrained(folder)
            for method, keys in METHODS.items():
                values = {"model_name_or_path": folder, "datasets": [{"path": "rows.jsonl"}], "max_length": 2048}
                values |= {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "bf16": True, **keys}
                config = load_config(STAGES["sft"].config_class, values, lambda _: [], output_dir=folder)
                card = gpu_of(80 * 10**9)
                stage = plan_stage("sft", config, {}, card, 1)
                peaks = {
                    engine: [round(plan_memory(stage, card, Launch(n, engine)).peak / 1e9, 1) for n in (1, 2, 4, 8, 16)]
                    for engine in ("ddp", "fsdp2")
                }
                rows.append({"model": name, "method": method, "gpus": [1, 2, 4, 8, 16], "peak_gb": peaks})
    return rows


def draw(axes, rows: list[dict]) -> None:
    """Draw the efficiency of each workload over the number of H100s, from none to full overlap."""
    for name in dict.fromkeys(one["workload"] for one in rows):
        own = [one for one in rows if (one["workload"], one["gpu"]) == (name, "H100")]
        counts = [one["gpus"] for one in own]
        low, high = ([one[f"efficiency_{end}"] for one in own] for end in ("worst", "best"))
        (line,) = axes.plot(counts, low, marker="o", markersize=3, label=name)
        axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.15)
    axes.set(title="Efficiency: estimated, not measured", xlabel="H100s", xscale="log")
    axes.set(
        ylabel="speed of each GPU relative to one GPU",
        ylim=(0, 1.05),
        xticks=COUNTS,
        xticklabels=[str(count) for count in COUNTS],
    )
    axes.minorticks_off()


def main() -> None:
    """Compute the rows, and write the record and the plot."""
    use, phases, tokens = measured()
    rows = [*(one for gpu in GPUS for one in sft_rows(gpu, use)), *ppo_rows(phases, tokens)]
    settings = {"gpus": GPUS, "assumed": ASSUMED, "share_of_peak": round(use, 3), "ppo_seconds": phases}
    record = {"benchmark": "many_gpus", "measured": False, "settings": settings, "rows": rows, "sft": cards_needed()}
    (RECORDS / "many_gpus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw_png(ROOT / "docs" / "images" / "many_gpus.png", 1, partial(draw, rows=rows), dark=True)
    for one in rows:
        print(*one.values(), sep="\t")
    for one in record["sft"]:
        print(one["model"], one["method"], one["peak_gb"])


if __name__ == "__main__":
    main()
