"""The private parts of other libraries that `core/compat.py` uses: each test fails when upstream moves one."""

import pytest
import torch
import transformers
import trl
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CompileConfig,
    ContinuousBatchingConfig,
    FalconH1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from hfkit.core import compat, compat_trl
from hfkit.data.template_limits import UnusableTemplateError
from hfkit.models.loading import load_policy
from hfkit.models.quantization import quantization_of
from hfkit.training.comparison_trainer import ComparisonTrainer

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def small_model(**options):
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=64, pad_token_id=0, **SHAPE), **options)


def test_several_gpus_in_one_process_count_as_one(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=3, use_cpu=True)
    arguments._n_gpu = 4
    assert (arguments.n_gpu, arguments.train_batch_size) == (4, 12)
    compat.use_one_gpu(arguments)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 3)


def test_accelerate_chooses_a_device_again(monkeypatch):
    assert PartialState(cpu=True).device.type == "cpu"
    monkeypatch.setattr(PartialState, "default_device", torch.device("meta"))
    try:
        assert PartialState().device.type == "cpu"  # if this becomes "meta", `forget_process_state` is no longer needed
        compat.forget_process_state(AcceleratorState)
        assert PartialState().device.type == "meta"
    finally:
        compat.forget_process_state(AcceleratorState)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_weights_of_a_checkpoint_are_loaded(adapter, tmp_path):
    def model():
        return get_peft_model(small_model(), LoraConfig(target_modules="all-linear")) if adapter else small_model()

    saved, loaded = model(), model()
    trained = next(parameter for parameter in saved.parameters() if parameter.requires_grad)
    trained.data.fill_(0.5)
    saved.save_pretrained(tmp_path)
    compat.load_checkpoint_weights(Trainer(loaded, TrainingArguments(str(tmp_path), use_cpu=True)), str(tmp_path))
    assert all(next(p for p in loaded.parameters() if p.requires_grad).flatten() == 0.5)


def test_weights_are_saved_under_the_names_of_modules(tmp_path):
    sizes = {**SHAPE, "num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes))
    model.save_pretrained(tmp_path / "files")
    with compat.names_of_modules(model):
        model.save_pretrained(tmp_path / "modules")
    names = [{*load_file(tmp_path / kind / "model.safetensors")} for kind in ("files", "modules")]
    assert names[1] == {*model.state_dict()} != names[0]  # if all are equal, `names_of_modules` is no longer needed
    model.save_pretrained(tmp_path / "again")
    assert {*load_file(tmp_path / "again" / "model.safetensors")} == names[0]


def test_the_attention_that_a_model_computes_with():
    for name in ("eager", "sdpa"):
        assert compat.attention_of(small_model(attn_implementation=name).config) == name


def test_which_models_have_flash_attention():
    names = ("LlamaForCausalLM", "FalconMambaForCausalLM")
    assert [compat.supports_flash_attention(getattr(transformers, name)) for name in names] == [True, False]


@pytest.mark.slow
def test_generate_compiles_on_a_cpu_and_without_the_quantizer_that_forbids_it(quantized):
    config, model = CompileConfig(backend="eager"), quantized(4)
    compat.compile_everywhere(config)
    ids = torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 4, "cache_implementation": "static", "compile_config": config, "pad_token_id": 0}
    model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert not hasattr(model, "_compiled_call")
    quantizer = model.hf_quantizer
    with compat.without_quantizer(model):
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert hasattr(model, "_compiled_call") and model.hf_quantizer is quantizer


def test_which_classes_have_a_static_cache():
    assert compat.supports_static_cache(LlamaForCausalLM) and not compat.supports_static_cache(FalconH1ForCausalLM)


def test_the_tokens_of_a_page():
    assert compat.page_tokens(ContinuousBatchingConfig()) == 256


def test_the_name_of_a_cache_in_arguments_and_outputs():
    model, ids = small_model(), torch.tensor([[5, 6, 7]])
    name = compat.cache_name(BaseModelOutputWithPast)
    cache = model(ids)[name]
    assert (cache.get_seq_length(), model(ids, **{name: cache})[name].get_seq_length()) == (3, 6)


def test_trl_asks_this_method_for_encoded_rows():
    assert callable(trl.RewardTrainer._prepare_dataset)
    assert ComparisonTrainer._prepare_dataset is compat_trl.EncodedRows._prepare_dataset
    assert compat_trl.EncodedRows()._prepare_dataset([1], "tokenizer", "arguments", "train") == [1]


@pytest.fixture
def sft_arguments(tmp_path):
    """sft_arguments(**changes) -> an SFTConfig of TRL for rows of token ids, on the CPU."""
    options = {"use_cpu": True, "bf16": False, "report_to": "none", "dataset_kwargs": {"skip_prepare_dataset": True}}
    return lambda **changes: trl.SFTConfig(str(tmp_path), **options, **changes)


@pytest.fixture
def sft_trainer(sft_arguments, tokenizer):
    """sft_trainer(model, **changes) -> TRL's SFTTrainer."""
    options = {"train_dataset": Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2]}])}
    options["processing_class"] = tokenizer
    return lambda model, **changes: trl.SFTTrainer(model, sft_arguments(**changes), **options)


def test_the_loss_that_is_read_from_token_outputs_is_trls_default(sft_arguments):
    assert compat_trl.has_plain_loss(sft_arguments()) and not compat_trl.has_plain_loss(sft_arguments(loss_type="dft"))


def test_trl_computes_a_tile_of_logits_if_it_fuses_the_head(sft_arguments):
    tile = compat_trl.fused_head_tile()
    assert (tile is not None) is compat_trl.fuses_head(sft_arguments())
    if tile is not None:
        assert tile == (4096, 32768)


def test_the_token_outputs_that_trl_reads(sft_trainer):
    trainer = sft_trainer(small_model())
    batch = {name: torch.ones(1, 5, dtype=torch.long) for name in ("input_ids", "labels", "attention_mask")}
    sums = [torch.tensor(value) for value in (2.0, 3, 6.0, 4, -8.0)]  # 3 of 4 labels are predicted
    loss = trainer.compute_loss(lambda **inputs: compat_trl.TokenOutputs(*sums), batch)
    trainer.log({})
    logged = trainer.state.log_history[-1]
    assert (float(loss), logged["mean_token_accuracy"], logged["entropy"]) == (2.0, 0.75, 1.5)


def test_lora_on_the_head_is_accepted_and_refused_if_trl_ignores_it(sft_trainer, sft_arguments):
    model = get_peft_model(small_model(), LoraConfig(target_modules=["lm_head"]))
    with compat_trl.accept_adapted_head(model):
        sft_trainer(model, loss_type="nll")
    assert isinstance(model.get_output_embeddings(), LoraLayer)
    if compat_trl.fuses_head(sft_arguments()):
        with pytest.raises(ValueError, match="lm_head"):
            sft_trainer(model, loss_type="nll")


@pytest.fixture
def quantized(base_dir, config_of, tmp_path):
    """quantized(bits) -> a small model in 4 or 8 bits."""

    def load(bits: int):
        config = config_of("sft", tmp_path / "sft", **{f"load_in_{bits}bit": True})
        return load_policy(str(base_dir), quantization=quantization_of(vars(config)))[0]

    return load


def test_a_model_is_marked_as_quantized(quantized):
    source, target = quantized(4), torch.nn.Module()
    compat.copy_quantization(source, target)
    assert target.is_quantized and target.is_loaded_in_4bit and target.hf_quantizer is source.hf_quantizer
    assert target.quantization_method == source.quantization_method
    plain = torch.nn.Module()
    compat.copy_quantization(torch.nn.Linear(1, 1), plain)
    assert not hasattr(plain, "is_quantized")


def test_a_model_computes_without_the_autocast_of_an_accelerator():
    from accelerate import Accelerator

    accelerator, ones = Accelerator(mixed_precision="bf16", cpu=True), torch.full((1, 8), 1 / 3)
    model = accelerator.prepare_model(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)))
    rounded = model(ones)
    with compat.without_autocast_wrapper(model):
        exact = model(ones)
    assert torch.equal(exact, model[1](model[0](ones))) and not torch.equal(exact, rounded)
    assert torch.equal(model(ones), rounded)
    with compat.without_autocast_wrapper(model[0]):  # no accelerator has prepared it
        assert torch.equal(model[0](ones), torch.nn.functional.linear(ones, model[0].weight, model[0].bias))
    compat.forget_process_state(AcceleratorState)  # of mixed precision


def test_4bit_layers_stay_unpacked(quantized):
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(8, 8)
    if not hasattr(layer, "support_avx512bf16_for_cpu"):
        pytest.skip("bitsandbytes before 0.49 never repacks them")
    compat.keep_unpacked(layer)
    assert layer.support_avx512bf16_for_cpu is False


def test_scales_of_8bit_layers(quantized):
    from bitsandbytes.nn import Linear8bitLt

    layer = next(module for module in quantized(8).modules() if isinstance(module, Linear8bitLt))
    weights, scales = compat.scales_of_8bit(layer)
    assert (weights.dtype, weights.shape) == (torch.int8, (layer.out_features, layer.in_features))
    assert scales.shape == (layer.out_features,)
    assert compat.scales_of_8bit(layer)[0] is weights


@pytest.mark.parametrize(("options", "plain"), [({}, True), ({"use_dora": True}, False), ({"lora_bias": True}, False)])
def test_plain_lora(options, plain):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model = get_peft_model(model, LoraConfig(target_modules=["0"], **options))
    layer = next(module for module in model.modules() if isinstance(module, LoraLayer))
    assert compat.is_plain_lora(layer) is plain


def test_the_http_library_defines_the_errors_that_are_retried():
    library = compat.http_library(HfHubHTTPError)
    assert issubclass(HfHubHTTPError, library.HTTPError)
    assert issubclass(library.ConnectError, library.HTTPError) and issubclass(library.ConnectTimeout, library.HTTPError)


def test_transformers_compiles_chat_templates_in_the_bounded_environment():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")))
    tokenizer.chat_template = "{{ 'a' * 10**10 }}"
    with pytest.raises(UnusableTemplateError, match="repeats a text"):
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)


def test_the_best_metric_is_stored_outside_of_a_step(tmp_path):
    options = {"metric_for_best_model": "loss", "greater_is_better": False, "save_strategy": "steps"}
    trainer = Trainer(small_model(), TrainingArguments(str(tmp_path), use_cpu=True, **options))
    trainer.state.global_step = 3
    assert [compat.determine_best_metric(trainer, {"eval_loss": loss}) for loss in (2.0, 1.0, 3.0)] == [
        True,
        True,
        False,
    ]
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, 3)
