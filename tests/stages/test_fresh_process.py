"""The output of a stage is an ordinary folder: a process without hfkit computes the same logits from it."""

import numpy as np
import pytest
import torch
from conftest import NAMES
from forks import run_without_hfkit
from read_rows import encode_conversation

import hfkit

# argv: file of the rows, then pairs of kind=folder; writes FOLDER_KIND.npy next to the rows.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

rows = torch.from_numpy(np.load(sys.argv[1]))
for argument in sys.argv[2:]:
    kind, folder = argument.split("=")
    if kind == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
    elif kind == "adapter":
        model = AutoPeftModelForCausalLM.from_pretrained(folder)
    else:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model = PeftModel.from_pretrained(model, folder)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    with torch.no_grad():
        logits = model.eval()(rows, attention_mask=(rows != model.config.pad_token_id).long()).logits
    np.save(Path(sys.argv[1]).with_name(Path(folder).name + ".npy"), logits.numpy())
"""


@pytest.fixture(scope="module")
def rows(tokenizer) -> np.ndarray:
    """16 padded conversations: the responses of 8 pairs."""
    pairs = [(f"What does {name} like?", f"{name} likes red.", "red") for name in NAMES]
    ids = [encode_conversation(tokenizer, prompt, reply)[0] for prompt, *replies in pairs for reply in replies]
    return tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="np")["input_ids"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, rows, base_dir, sft_dir, ppo_dir, reward_dir):
    """Return the logits of a folder as the fresh process computed them."""
    folder = tmp_path_factory.mktemp("fresh")
    np.save(folder / "rows.npy", rows)
    kinds = {"full": [base_dir], "adapter": [sft_dir, ppo_dir], "reward": [reward_dir]}
    folders = [f"{kind}={path}" for kind, paths in kinds.items() for path in paths]
    run_without_hfkit(SCRIPT, str(folder / "rows.npy"), *folders, cwd=folder)
    return lambda path: np.load(folder / f"{path.name}.npy")


def logits_here(model, rows: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(rows)
    with torch.no_grad():
        return model(ids, attention_mask=(ids != model.config.pad_token_id).long()).logits.numpy()


@pytest.mark.parametrize("name", ["base_dir", "sft_dir", "ppo_dir"])
def test_pain_28_a_policy_gives_the_same_logits_on_the_untouched_base_in_a_fresh_process(fresh, rows, request, name):
    folder = request.getfixturevalue(name)
    model, _ = hfkit.load_policy(str(folder))
    assert np.array_equal(logits_here(model, rows), fresh(folder))


def test_pain_01_reward_head_reloads_in_a_fresh_process(fresh, rows, reward_dir):
    here = logits_here(hfkit.load_reward(str(reward_dir)).model, rows)
    assert here.shape == (16, 1)
    assert np.abs(here - fresh(reward_dir)).max() < 1e-5
    assert here.std() > 1e-3


def test_the_stages_differ(fresh, base_dir, sft_dir, ppo_dir):
    base, sft, ppo = (fresh(folder) for folder in (base_dir, sft_dir, ppo_dir))
    assert not np.allclose(base, sft, atol=1e-4)
    assert not np.allclose(sft, ppo, atol=1e-4)
