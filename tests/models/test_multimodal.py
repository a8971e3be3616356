"""Models that also read images, trained on text: Mistral 3 as a whole, Qwen 3.5 by its text model, Gemma 3."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from forks import run_without_hfkit
from interruption import stopped_copy
from model_outputs import last_hidden, logits_at
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from processes import launch
from quick import mostly_slow
from safetensors.torch import load_file
from small_models import REGISTERS_CLASSIFIERS
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Gemma3ImageProcessor,
    Gemma3Processor,
)

import hfkit
from hfkit.commands.export.main import export
from hfkit.commands.export.vllm import served_folder
from hfkit.commands.merge import merge
from hfkit.config.stages import PPOConfig
from hfkit.models.adapter_shape import on_meta
from hfkit.models.generation import generate_replies
from hfkit.models.loading import load_trainable
from hfkit.models.multimodal import language_config, parts_without_text
from hfkit.models.named_weights import named_weights
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.source import Source
from hfkit.rlhf.roles import value_from_reward
from hfkit.stages import sft

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
IMAGES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGES |= {"image_size": 28, "patch_size": 14}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MODELS = {
    "mistral3": ({"model_type": "mistral", **TEXT}, {"model_type": "pixtral", "head_dim": 8, **IMAGES}),
    "qwen3_5": (
        {**TEXT, **LINEAR, "layer_types": ["linear_attention", "full_attention"]},
        {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "out_hidden_size": 32},
    ),
    "internvl": (
        {"model_type": "qwen3", **TEXT},
        {"model_type": "internvl_vision", **IMAGES, "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "lfm2_vl": (
        {"model_type": "lfm2", **TEXT, "layer_types": ["conv", "full_attention"]},
        {"model_type": "siglip2_vision_model", **IMAGES},
    ),
    "smolvlm": ({"model_type": "llama", **TEXT}, {"model_type": "smolvlm_vision", **IMAGES}),
    "qwen3_vl": (
        {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}},
        {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "out_hidden_size": 32},
    ),
    "llava_next": (
        {"model_type": "llama", **TEXT},
        {"model_type": "clip_vision_model", **IMAGES},
    ),
    "gemma3": ({**TEXT, "layer_types": ["sliding_attention", "full_attention"]}, IMAGES),
}
"""Architecture -> the settings of its text model, and those of its vision model."""
LLAMA4 = (
    {**TEXT, "intermediate_size_mlp": 64, "num_local_experts": 2, "moe_layers": [1], "num_experts_per_tok": 1},
    {**IMAGES, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
)
OWN_CLASS = {*MODELS} - {"qwen3_5"}
"""Those that Transformers loads as a whole for text."""
STILL = {"learning_rate": 1e-9, "max_steps": 1}
PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""The files with which Transformers and vLLM prepare images for a checkpoint."""
made = pytest.mark.skipif(not REGISTERS_CLASSIFIERS, reason="Transformers before 5.19 registers no further classes")

IMAGE_TOKENS = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
READ_IMAGE = """
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

image = Image.linear_gradient("L").convert("RGB")
inputs = AutoProcessor.from_pretrained("{path}")(images=[image], text="<boi> What is it?", return_tensors="pt")
with torch.no_grad():
    model = AutoModelForImageTextToText.from_pretrained("{path}").eval()
    answer = model(**inputs).logits[0, -1, :4].tolist()
"""


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    """checkpoint(architecture) -> the folder of a tiny random model of images and text, with parts of its config."""

    def make(architecture: str, tokenizer=tokenizer, **parts) -> str:
        torch.manual_seed(0)
        text, images = {**MODELS, "llama4": LLAMA4}[architecture]
        tokens = {key: getattr(tokenizer, key) for key in ("eos_token_id", "bos_token_id")}
        parts |= {"text_config": {**text, **tokens, "vocab_size": len(tokenizer)}, "vision_config": images}
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(architecture, **parts))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / architecture)
        tokenizer.save_pretrained(tmp_path / architecture)
        for name in PROCESSOR:
            (tmp_path / architecture / name).write_text(f'{{"file": "{name}"}}')
        return str(tmp_path / architecture)

    return make


def processor_files(folder) -> dict[str, str]:
    """Return the files of a checkpoint's processor, by name."""
    return {name: (Path(folder) / name).read_text() for name in PROCESSOR if (Path(folder) / name).exists()}


def plain_logits(path: str, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits that Transformers' own class for images and text computes from text."""
    with torch.no_grad():
        return AutoModelForImageTextToText.from_pretrained(path).eval()(input_ids=ids).logits


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3", "qwen3_5"]))
def test_the_text_model_computes_as_in_the_whole_one(architecture, checkpoint):
    path = checkpoint(architecture)
    model, tokenizer = hfkit.load_policy(path)
    ids = tokenizer("What does Ann like?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, plain_logits(path, ids), atol=1e-5)
    assert bool(parts_without_text(model)) == (architecture in OWN_CLASS)


@pytest.mark.slow
@made
@pytest.mark.parametrize("architecture", MODELS)
def test_all_stages_train_it_and_what_they_save_opens_without_hfkit(architecture, checkpoint, run_stage, tmp_path):
    base = checkpoint(architecture)
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, learning_rate=1e-2, max_steps=2)
    names = [*load_file(sft / "adapter_model.safetensors")]
    assert names and not any(part in name for name in names for part in ("vision", "visual", "projector"))
    assert not torch.allclose(logits_at(sft), logits_at(base), atol=1e-3)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), **STILL)
    scores = hfkit.load_reward(str(reward))
    assert torch.allclose(last_hidden(scores.model), last_hidden(hfkit.load_policy(str(sft))[0]), atol=1e-5)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, learning_rate=1e-9, total_episodes=4, num_ppo_epochs=1)
    assert torch.allclose(logits_at(ppo), logits_at(sft), atol=1e-5)
    merged = merge(str(sft), tmp_path / "merged", "float32")
    assert torch.allclose(logits_at(merged), logits_at(sft), atol=1e-4)
    assert processor_files(merged) == (processor_files(base) if architecture in OWN_CLASS else {})
    codes = []
    for folder in (sft, merged, reward):
        code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
        assert str(tmp_path) not in code
        if folder == reward:
            wanted = scores(["What is the capital of France?"], ["It is Paris."]).item()
            code += f"\nassert abs(model(**inputs).logits.item() - {wanted}) < 1e-4"
        else:
            model, tokenizer = hfkit.load_policy(str(folder))
            with torch.no_grad():
                wanted = model(**tokenizer("Ann", return_tensors="pt")).logits[0, -1, :4].tolist()
            code += "\nlogits = model(**tokenizer('Ann', return_tensors='pt')).logits[0, -1, :4].tolist()"
            code += f"\nassert all(abs(a - b) < 1e-4 for a, b in zip(logits, {wanted}))"
        codes.append(code)
    run_without_hfkit("\n".join(codes), cwd=tmp_path)


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3"]))
def test_a_whole_model_is_trained_and_its_vision_model_stays(architecture, checkpoint, run_stage, tokenizer, tmp_path):
    base = checkpoint(architecture)
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, use_peft=None, lora_r=None, max_steps=1)
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (base, sft))
    others = [name for name in after if any(part in name for part in ("vision", "visual", "projector"))]
    assert bool(others) == (architecture in OWN_CLASS)
    assert all(torch.equal(before[name], after[name]) for name in others)
    kept = processor_files(base) if architecture in OWN_CLASS else {}
    assert len(processor_files(base)) == 3 and processor_files(sft) == processor_files(sft / "checkpoint-1") == kept
    assert not torch.allclose(logits_at(sft), logits_at(base), atol=1e-4)
    assert AutoConfig.from_pretrained(sft).get_text_config().pad_token_id == tokenizer.pad_token_id


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["qwen3_vl"]))
def test_a_batch_with_equal_prompts_is_sampled_like_each_row_alone(architecture, checkpoint):
    """Rows leave it, and prompts of several lengths occur several times: positions are those of each row."""
    model, tokenizer = hfkit.load_policy(checkpoint(architecture))
    long, short = [*range(20, 44)], [*range(60, 71)]
    whole = [generate_replies(model, tokenizer, [prompt], 40, stop_token_ids=[1]) for prompt in (long, short)]
    stop = {"stop_token_ids": [whole[0][0][9]]}
    alone = [generate_replies(model, tokenizer, [prompt], 40, **stop)[0] for prompt in (long, short)]
    assert len(alone[0]) <= 10 < len(alone[1])
    batch = generate_replies(model, tokenizer, [long, short, short, long, short], 40, **stop)
    assert batch == [alone[0], alone[1], alone[1], alone[0], alone[1]]


@pytest.mark.slow
def test_a_merged_model_from_the_hub_reads_images(checkpoint, tokenizer, run_stage, user_of, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", extra_special_tokens=IMAGE_TOKENS)
    ids = {f"{name}_index": tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    base = checkpoint("gemma3", tokenizer, mm_tokens_per_image=1, **ids)
    for name in PROCESSOR:
        (Path(base) / name).unlink()
    images = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    Gemma3Processor(images, tokenizer, image_seq_length=1).save_pretrained(base)
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, **STILL)
    merged = merge(str(sft), tmp_path / "merged", "float32")
    ann = user_of("ann")
    ran = ann.hfkit("push", merged, "ann/merged", "--public")
    assert ran.status == 0, ran.stderr
    found = [ann.python(READ_IMAGE.format(path=path)) for path in (base, "ann/merged")]
    assert found[0] == pytest.approx(found[1], abs=1e-4) and len(found[0]) == 4


@made
@pytest.mark.slow
@pytest.mark.parametrize("architecture", MODELS)
def test_a_whole_model_resumes_with_the_weights_of_its_checkpoint(architecture, checkpoint, run_stage, tmp_path):
    """The names of weights in files are older than those of modules, and a trainer would ignore them."""
    changes = {"model_name_or_path": checkpoint(architecture), "use_peft": None, "lora_r": None, "max_steps": 2}
    changes |= {"save_steps": 1, "save_total_limit": None, "learning_rate": 1e-2}
    whole = run_stage("sft", tmp_path / "whole", **changes)
    stopped = stopped_copy(whole, tmp_path / "stopped", 1)
    run_stage("sft", stopped, **changes, resume_from_checkpoint=True)
    ends = [load_file(folder / "model.safetensors") for folder in (whole, stopped)]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())
    assert torch.equal(logits_at(whole / "checkpoint-2"), logits_at(whole))


@made
@pytest.mark.parametrize("reward_model", [None, "full"])
def test_full_training_gives_each_trained_weight_a_gradient(reward_model, checkpoint, tmp_path):
    """DistributedDataParallel fails otherwise."""
    base = checkpoint("llava_next")
    config = PPOConfig(model_name_or_path=base, output_dir=str(tmp_path / "ppo"), use_peft=False, dtype="float32")
    if reward_model:
        value = value_from_reward(load_trainable(config, TaskType.SEQ_CLS), config, Source.of(base, "main"))
    models = [value] if reward_model else [load_trainable(config), load_trainable(config, TaskType.SEQ_CLS)]
    for model in models:
        model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert trained == {name for name, weight in model.named_parameters() if weight.grad is not None}


def test_the_chat_template_may_be_that_of_the_processor(tokenizer_dir, tokenizer, tmp_path):
    folder = Path(shutil.copytree(tokenizer_dir, tmp_path / "tokenizer"))
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(str(folder)).chat_template is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    assert load_tokenizer(str(folder)).chat_template == tokenizer.chat_template


@made
def test_the_vision_model_may_be_at_the_top_of_a_model():
    model = on_meta(language_config(AutoConfig.for_model("kosmos-2")), AutoModelForCausalLM)
    assert parts_without_text(model) == ["vision_model", "image_to_text_projection"]


@pytest.mark.parametrize("architecture", mostly_slow(["qwen3_5", "llama4"], ["qwen3_5"]))
def test_other_engines_get_the_weights_under_the_names_of_the_checkpoint(architecture, checkpoint):
    path = checkpoint(architecture)
    texts = ("lm_head.", "model.language_model.", "language_model.")
    stored = {name for name in load_file(f"{path}/model.safetensors") if name.startswith(texts)}
    assert {one.name for one in named_weights(hfkit.load_policy(path)[0])} == stored


def test_an_adapter_for_vllm_fits_the_whole_model(checkpoint, tmp_path):
    path, ids = checkpoint("qwen3_5"), torch.tensor([[5, 6, 7]])
    model, tokenizer = hfkit.load_policy(path)
    adapted = get_peft_model(model, LoraConfig("CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    exported = export(str(tmp_path / "adapter"), tmp_path / "exported", "vllm", adapter=True, base=path)
    whole = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(path), exported)
    with torch.no_grad():
        assert torch.allclose(whole(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits, atol=1e-5)
        assert not torch.allclose(whole(input_ids=ids).logits, plain_logits(path, ids), atol=1e-3)
    served = served_folder(Source.of(str(tmp_path / "adapter"), base=path), tmp_path / "served")
    assert (
        load_file(f"{served}/adapter_model.safetensors").keys()
        == load_file(exported / "adapter_model.safetensors").keys()
    )


def run_sft(config) -> None:
    sft.main(config)


@pytest.mark.distributed
@pytest.mark.parametrize("architecture", ["llava_next", "qwen3_5"])
def test_fsdp2_shards_the_layers_that_a_model_has(architecture, checkpoint, config_of, tmp_path):
    base, whole = checkpoint(architecture), {"use_peft": None, "lora_r": None, "max_steps": 1}
    launch(run_sft, config_of("sft", tmp_path / "sft", model_name_or_path=base, **whole), engine="fsdp2")
    assert not torch.allclose(logits_at(tmp_path / "sft"), logits_at(base), atol=1e-4)
