"""PyTorch's kernel for variable lengths separates documents, and other rows are computed as by SDPA."""

from itertools import chain

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.device import has_bf16
from hfkit.core.errors import HfkitError
from hfkit.models.varlen_attention import VARLEN, supports_varlen, varlen_attention

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 4},
    "qwen3": {"num_key_value_heads": 4, "head_dim": 32},
}
DOCUMENTS = [[5, 9, 14, 2, 61, 33, 7], [8, 8, 41, 40, 39, 2, 17, 90, 6], [70], [12, 66, 3]]


def model_of(name: str, attention: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=100, pad_token_id=0, eos_token_id=2, **SHAPE, **SHAPES[name])
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def gradients(model, **batch) -> torch.Tensor:
    model.zero_grad()
    model(**batch, use_cache=False).logits.float().logsumexp(-1).square().sum().backward()
    return torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.gpu
@pytest.mark.skipif(not has_bf16(), reason="the kernel computes in 16 bits")
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_documents_of_a_packed_row_are_computed_as_if_alone(name, autocast):
    """In bf16 the error against float64 of each document alone is at most 1.5 times that of SDPA."""
    exact = model_of(name, "eager").double()
    alone = torch.cat([exact(torch.tensor([document])).logits[0] for document in DOCUMENTS])
    ids = torch.tensor([[*chain(*DOCUMENTS)]], device="cuda")
    positions = torch.tensor([[*chain(*(range(len(document)) for document in DOCUMENTS))]], device="cuda")
    wanted, found, slopes = gradients_alone(exact), {}, {}
    for attention in ("sdpa", VARLEN):
        model = model_of(name, attention).cuda()
        model = model if autocast else model.bfloat16()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            found[attention] = difference(
                model(ids, position_ids=positions, use_cache=False).logits[0].double().cpu(), alone
            )
            slopes[attention] = difference(gradients(model, input_ids=ids, position_ids=positions).cpu(), wanted)
    assert found[VARLEN] < max(1.5 * found["sdpa"], 1e-3) < 0.05
    assert slopes[VARLEN] < max(1.5 * slopes["sdpa"], 1e-3) < 0.1


def gradients_alone(model) -> torch.Tensor:
    return sum(gradients(model, input_ids=torch.tensor([document])) for document in DOCUMENTS)


@pytest.mark.any_device
@pytest.mark.parametrize("name", SHAPES)
def test_rows_that_are_not_packed_are_computed_as_by_sdpa(name):
    """Padded batches, and responses sampled with a cache."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ids = torch.randint(3, 100, (3, 11), device=device)
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[2, :2] = 0
    outputs = []
    for attention in ("sdpa", VARLEN):
        model = model_of(name, attention).to(device).eval()
        logits = model(ids, attention_mask=mask).logits[mask.bool()]
        replies = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        outputs.append((logits, replies))
    (logits, replies), (same_logits, same_replies) = outputs
    assert torch.equal(logits, same_logits)
    assert torch.equal(replies, same_replies)


def test_the_kernel_is_not_chosen_for_features_that_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert supports_varlen(model_of("llama", "eager").config)
    assert not supports_varlen(AutoConfig.for_model("gemma2", **SHAPE))  # soft caps
    assert not supports_varlen(AutoConfig.for_model("llama", **SHAPE, head_dim=512))
    assert not supports_varlen(AutoConfig.for_model("llama4_text", **SHAPE, attention_chunk_size=8))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not supports_varlen(model_of("llama", "eager").config)


@pytest.mark.parametrize(
    "option", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}, {"dropout": 0.1}]
)
def test_a_feature_that_the_kernel_lacks_is_an_error(option):
    row, layer = torch.zeros(1, 4, 7, 8), model_of("llama", VARLEN).model.layers[0].self_attn
    with pytest.raises(HfkitError, match=f"does not support {next(iter(option))}"):
        varlen_attention(layer, row, row, row, None, position_ids=torch.arange(7)[None], **option)
