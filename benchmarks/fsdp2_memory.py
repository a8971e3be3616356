"""python benchmarks/fsdp2_memory.py

Measures the peak of a GPU that is the first of n under FSDP2, with torch's fake process group: it allocates what a
process of such a launch would, and sends nothing. The models are Llamas with random weights, trained in full in bf16 on
rows of 2,048 tokens, one at a time. Prints a line of JSON for each case. Needs no hfkit.
"""

import json
import os
import subprocess
import sys

CASES = [  # processes, hidden, MLP, layers, vocabulary, tied head, activation checkpointing, accumulated passes
    (8, 4096, 14336, 32, 128256, False, True, 1),
    (8, 2048, 8192, 16, 128256, True, False, 1),
    (4, 2048, 8192, 16, 128256, False, True, 2),
    (64, 4096, 14336, 32, 128256, False, True, 1),
    (8, 4096, 14336, 16, 32000, False, False, 1),
]


def measure(processes, hidden, mlp, layers, vocab, tied, checkpointing, passes) -> None:
    """Take three steps, and print the most bytes that tensors had at once in the last one."""
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": 1234}
    variables |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": 2, "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    os.environ.update({name: str(value) for name, value in variables.items()})
    import torch
    from accelerate import Accelerator
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    shape = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "vocab_size": vocab}
    shape |= {"num_attention_heads": hidden // 128, "num_key_value_heads": 8, "tie_word_embeddings": tied}
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    accelerator = Accelerator(mixed_precision="bf16")
    model, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), fused=True))
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        for index in range(passes):
            ids = torch.randint(0, vocab, (1, 2048), device="cuda")
            with accelerator.no_sync(model) if index < passes - 1 else torch.enable_grad():
                accelerator.backward(model(input_ids=ids, labels=ids, use_cache=False).loss)
        optimizer.step()
        optimizer.zero_grad()
    sizes = {"peak_gb": torch.cuda.max_memory_allocated(), "standing_gb": torch.cuda.memory_allocated()}
    names = ("processes", *shape, "gradient_checkpointing", "gradient_accumulation_steps")
    values = (processes, *shape.values(), checkpointing, passes)
    settings = dict(zip(names, values, strict=True))
    print(json.dumps(settings | {name: round(size / 1e9, 2) for name, size in sizes.items()}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*CASES[int(sys.argv[1])])
    else:
        for index in range(len(CASES)):
            subprocess.run([sys.executable, __file__, str(index)], check=False)
