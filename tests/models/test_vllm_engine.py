"""vLLM samples from the current policy, on a server and in this process; doubles replace both.

The doubles (`tests/vllm_double`, `tests/vllm_server.py`) have a small model, which receives the weights.
"""

import json
import os
import shutil
from dataclasses import replace
from itertools import product
from math import sqrt
from pathlib import Path

import pytest
import torch
import trl
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from quick import mostly_slow
from small_models import PROMPTS
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.errors import HfkitError
from hfkit.models.engine_errors import EngineError
from hfkit.models.generation import generate_replies, likelihoods
from hfkit.models.loading import load_base
from hfkit.models.named_weights import named_weights
from hfkit.models.quantization import quantization_of
from hfkit.models.vllm_engine import VLLMEngine, colocated
from hfkit.models.vllm_server import Server, is_loopback

FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
POLICIES = ["full", "LoRA", "4-bit", "4-bit without an adapter"]
STOPS = [1]


def policy_on(base_dir, kind: str):
    """Return a policy of a kind, whose adapter differs from zero."""
    bits = FOUR_BITS if kind.startswith("4-bit") else {}
    base = load_base(str(base_dir), quantization=quantization_of(bits))
    torch.manual_seed(0)
    if kind in ("LoRA", "4-bit"):
        base = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return base.eval()


def update(policy, seed: int) -> None:
    """Change trained weights enough to change responses."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad and parameter.is_floating_point() and "norm" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))


def state_of(policy) -> dict:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items() if isinstance(tensor, torch.Tensor)}


@pytest.fixture
def engine_on(serve_vllm, free_port, base_dir):
    """engine_on(where, policy) -> an engine with vLLM's double on a server, or in this process."""

    def make(where: str, policy, tokenizer, timeout: float = 60.0, bf16: bool = False, **options) -> VLLMEngine:
        if where == "server":
            server = serve_vllm(base_dir, **options)
            backend = Server(server.url, timeout, free_port())
        else:
            backend = colocated(str(base_dir), "float32", 0.5, 64)
        return VLLMEngine(policy, tokenizer, backend, bf16)

    return make


GREEDY = [*product(("server", "colocate"), POLICIES)]
QUICK = [("colocate", "full"), ("colocate", "4-bit")]


@pytest.mark.parametrize(("where", "kind"), mostly_slow(GREEDY, QUICK))
def test_greedy_replies_are_those_of_generate_after_each_update(engine_on, base_dir, tokenizer, where, kind):
    policy = policy_on(base_dir, kind)
    engine, seen = engine_on(where, policy, tokenizer), []
    for step in range(3):
        if step and "without" not in kind:
            update(policy, step)
        before = state_of(policy)
        engine.sync()
        replies = engine.sample(PROMPTS, 12, 0.0, 2, STOPS)
        engine.release()
        assert replies == generate_replies(policy, tokenizer, PROMPTS, 12, stop_token_ids=STOPS)
        torch.testing.assert_close(state_of(policy), before, rtol=0, atol=0)
        seen.append(replies)
    assert len({*map(str, seen)}) == (1 if "without" in kind else 3)


@pytest.mark.parametrize("where", mostly_slow(["server", "colocate"], ["colocate"]))
def test_replies_are_drawn_by_the_models_probabilities_at_the_temperature_alone(engine_on, base_dir, tokenizer, where):
    policy = policy_on(base_dir, "LoRA")
    engine, temperature = engine_on(where, policy, tokenizer), 1.5
    engine.sync()
    prompts = [PROMPTS[1]] * 60
    torch.manual_seed(5)
    replies = engine.sample(prompts, 6, temperature, 64, STOPS)
    found = likelihoods(policy, tokenizer, prompts, replies, temperature)
    surplus = torch.cat([one.logprobs + one.entropy for one in found])
    assert torch.cat([one.entropy for one in found]).mean() > 1
    assert abs(float(surplus.mean())) < 4 * float(surplus.std()) / sqrt(len(surplus))
    assert len({*map(tuple, replies)}) > 40  # of one prompt: each has a different seed
    torch.manual_seed(5)
    assert engine.sample(prompts, 6, temperature, 3, STOPS) == replies
    assert engine.sample(prompts, 6, temperature, 3, STOPS) != replies  # the generator has advanced


@pytest.mark.parametrize("where", mostly_slow(["server", "colocate"], ["colocate"]))
def test_stop_tokens_are_hfkits_and_not_vllms(serve_vllm, free_port, base_dir, tokenizer, tmp_path, where):
    policy = policy_on(base_dir, "LoRA")
    whole = generate_replies(policy, tokenizer, PROMPTS, 20, stop_token_ids=[10**6])
    folder = Path(shutil.copytree(base_dir, tmp_path / "base"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [whole[0][1], whole[1][2]]}))
    if where == "server":
        backend = Server(serve_vllm(folder).url, 60.0, free_port())
    else:
        backend = colocated(str(folder), "float32", 0.5, 64)
    engine = VLLMEngine(policy, tokenizer, backend)
    engine.sync()
    assert engine.sample(PROMPTS, 20, 0.0, 5, [10**6]) == whole
    stop_token_ids = [whole[0][3], whole[1][10]]
    expected = generate_replies(policy, tokenizer, PROMPTS, 20, stop_token_ids=stop_token_ids)
    assert engine.sample(PROMPTS, 20, 0.0, 5, stop_token_ids) == expected != whole


def test_weights_are_merged_in_float32_also_under_autocast(vllm_double, base_dir, tokenizer):
    policy = policy_on(base_dir, "LoRA")
    engine = VLLMEngine(policy, tokenizer, colocated(str(base_dir), "float32", 0.5, 64))
    with torch.autocast("cpu", torch.bfloat16):
        engine.sync()
    loaded = dict(engine.backend.llm.sampler.model.named_parameters())
    for one in named_weights(policy):
        assert torch.equal(loaded[one.name], one.value()), one.name


def test_making_vllm_in_this_process_draws_no_random_number(vllm_double, base_dir):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert colocated(str(base_dir), "float32", 0.5, 64) is colocated(str(base_dir), "float32", 0.5, 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_vllm_in_this_process_knows_of_expandable_segments(vllm_double, base_dir, monkeypatch):
    """hfkit's command sets them by torch's newer name, which vLLM does not read."""
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert colocated(str(base_dir), "float32", 0.5, 64).llm.allocator == "expandable_segments:True"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


def test_vllm_in_this_process_sleeps_while_the_policy_learns(engine_on, base_dir, tokenizer):
    engine = engine_on("colocate", policy_on(base_dir, "LoRA"), tokenizer)
    llm = engine.backend.llm
    for _ in range(2):
        engine.sync()
        engine.sample(PROMPTS, 3, 1.0, 5, STOPS)
        engine.release()
        engine.release()
    assert llm.calls == ["sleep", "wake_up", "sleep"]
    assert llm.settings == {"memory": 0.5, "tokens": 64}


def test_small_changes_survive_bfloat16(base_dir):
    """Rounding to nearest would drop an adapter that is much smaller than the base's last digit."""
    policy = policy_on(base_dir, "LoRA")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-3)
    torch.manual_seed(0)
    exact = {one.name: one.value() for one in named_weights(policy)}
    rounded = [{one.name: one.value() for one in named_weights(policy, bf16=True)} for _ in range(40)]
    name = "model.layers.0.mlp.up_proj.weight"
    assert rounded[0][name].dtype == torch.bfloat16 and exact[name].dtype == torch.float32
    digit = exact[name].abs().max() * 2**-8
    mean = torch.stack([one[name].float() for one in rounded]).mean(0)
    assert (mean - exact[name]).abs().mean() < 0.2 * digit
    assert all(torch.equal(one[other], exact[other]) for one in rounded for other in exact if "norm" in other)


def test_names_dtypes_and_shapes_are_known_before_the_values(base_dir):
    for kind in POLICIES:
        weights = named_weights(policy_on(base_dir, kind))
        assert [one.name for one in weights] == [name for name, _ in load_base(str(base_dir)).named_parameters()]
        for one in weights:
            value = one.value()
            assert (value.dtype, [*value.shape]) == (one.dtype, one.shape)


BROKEN = {
    "error": "did not sample: .*500.*the engine is dead",
    "redirect": "did not sample: TooManyRedirects",
    "garbage": "did not sample: .*JSON",
    "huge": "did not sample: .*more than 16777216 bytes",
    "prompt": "did not sample: .*another prompt",
    "tokens": "expected token ids from 0 to 317",
    "slow": "did not sample: it exceeded the timeout of 4 seconds",
    "dies": "did not sample: the connection was refused or lost",
}


@pytest.mark.slow
def test_a_server_that_breaks_is_an_error_in_a_sentence(serve_vllm, free_port, base_dir, tokenizer):
    policy, group = policy_on(base_dir, "LoRA"), free_port()
    for how, message in BROKEN.items():
        if how in ("error", "dies"):  # the server still runs after other failures
            server = serve_vllm(base_dir)
        engine = VLLMEngine(policy, tokenizer, Server(server.url, 60.0, group))
        engine.sync()
        assert engine.sample(PROMPTS, 3, 1.0, 5, STOPS)
        if how == "slow":
            engine.backend = replace(engine.backend, timeout=4.0)
        server.change(how=how)
        with pytest.raises(EngineError, match=message) as error:
            engine.sample(PROMPTS, 3, 1.0, 5, STOPS)
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)
        sent = [(str(body["prompt"]), body["seed"]) for body in server.requests("/v1/completions")]
        assert len(sent) == len({*sent})  # no request is repeated
        assert not server.requests("/elsewhere")
        server.change()


@pytest.mark.slow
def test_a_server_that_is_gone_or_hangs_when_weights_are_sent_is_an_error(engine_on, base_dir, tokenizer):
    policy = policy_on(base_dir, "LoRA")
    engine = engine_on("server", policy, tokenizer, timeout=2.0, how="hangs", after=1)
    engine.sync()
    with pytest.raises(EngineError, match="did not load the weights: it exceeded the timeout of 2 seconds"):
        engine.sync()


@pytest.mark.slow
def test_a_server_that_keeps_the_cache_of_old_weights_is_an_error(engine_on, base_dir, tokenizer):
    """TRL's client ignores the answer, and responses would continue prompts as the old weights read them."""
    engine = engine_on("server", policy_on(base_dir, "LoRA"), tokenizer, how="busy", after=2)
    engine.sync()
    with pytest.raises(EngineError, match=r"did not load the weights: .*old weights in its prefix cache"):
        engine.sync()


@pytest.mark.skipif(Version(trl.__version__) < Version("1.13"), reason="older clients cannot send weights to it")
def test_a_server_of_a_newer_vllm_gets_each_update(monkeypatch, serve_vllm, free_port, base_dir, tokenizer):
    """vLLM 0.28 changed what announces the weights, and which functions send them."""
    monkeypatch.setenv("VLLM_DOUBLE_RELEASE", "0.33.0")
    policy = policy_on(base_dir, "LoRA")
    engine = VLLMEngine(policy, tokenizer, Server(serve_vllm(base_dir).url, 60.0, free_port()))
    for step in range(2):
        update(policy, step)
        engine.sync()
        expected = generate_replies(policy, tokenizer, PROMPTS, 12, stop_token_ids=STOPS)
        assert engine.sample(PROMPTS, 12, 0.0, 2, STOPS) == expected


@pytest.mark.slow
def test_a_restarted_server_gets_the_weights_again(serve_vllm, free_port, base_dir, tokenizer):
    policy, group = policy_on(base_dir, "LoRA"), free_port()
    first = serve_vllm(base_dir)
    engine = VLLMEngine(policy, tokenizer, Server(first.url, 3.0, group))
    engine.sync()
    first.stop()
    with pytest.raises(EngineError, match="did not load the weights"):
        engine.sync()
    serve_vllm(base_dir, port=first.port)
    engine.sync()
    expected = generate_replies(policy, tokenizer, PROMPTS, 12, stop_token_ids=STOPS)
    assert engine.sample(PROMPTS, 12, 0.0, 5, STOPS) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.8.0.1", True),
        ("https://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://10.0.0.2:8000", False),
        ("http://localhost.example.org", False),
        ("http://0.0.0.0:8000", False),
    ],
)
def test_which_servers_are_on_this_machine(url, expected):
    assert is_loopback(url) is expected


def test_a_server_elsewhere_is_warned_of(vllm_double, tokenizer, base_dir, capsys):
    engine = VLLMEngine(policy_on(base_dir, "LoRA"), tokenizer, Server("http://10.255.255.1:8000", 1.0))
    with pytest.raises(EngineError):  # tests have no network
        engine.sync()
    assert "warning: prompts and weights are sent to http://10.255.255.1:8000" in capsys.readouterr().err


def test_models_that_vllm_cannot_take_over_are_refused(base_dir, tokenizer):
    eight = load_base(str(base_dir), quantization=quantization_of({"load_in_8bit": True}))
    tied = AutoConfig.from_pretrained(base_dir, tie_word_embeddings=True)
    head = get_peft_model(AutoModelForCausalLM.from_config(tied), LoraConfig(target_modules=["lm_head"]))
    dora = get_peft_model(load_base(str(base_dir)), LoraConfig(target_modules=["q_proj"], use_dora=True))
    for model, words in ((eight, "8 bits"), (head, "output head"), (dora, "cannot be merged")):
        with pytest.raises(HfkitError, match=words):
            VLLMEngine(model, tokenizer, Server("http://127.0.0.1:1"))


@pytest.mark.gpu
def test_vllm_itself_takes_over_each_update(tokenizer, tmp_path, monkeypatch):
    """On a GPU with vLLM; rounding differs, so only most first tokens must agree."""
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16").cuda()
    policy = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    engine = VLLMEngine(policy, tokenizer, colocated(str(tmp_path), "bfloat16", 0.3, 64))
    prompts, seen = [[20 + index, 21, 22] for index in range(64)], []
    for step in range(3):
        if step:
            update(policy, step)
        engine.sync()
        firsts = [reply[0] for reply in engine.sample(prompts, 4, 0.0, 64, STOPS)]
        engine.release()
        expected = [reply[0] for reply in generate_replies(policy, tokenizer, prompts, 4, stop_token_ids=STOPS)]
        assert sum(map(int.__eq__, firsts, expected)) > 48
        seen.append(firsts)
    assert seen[0] != seen[1] != seen[2]
