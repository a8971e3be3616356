"""The models of `configs/recipes` by architecture: full-size configs, and tiny random twins.

The sizes are those of each model's `config.json`. A twin has the same model class, a few small layers, and a tokenizer
whose chat template has the traits of the real one. No weights are downloaded.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from family_fixtures import base_tokenizer, tokenizer_of
from template_families import FAMILIES
from template_parts import Family
from transformers import AutoConfig, PreTrainedConfig

QWEN3 = {"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936}
QWEN3 |= {"max_position_embeddings": 40960}
LLAMA3 = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
GEMMA3 = {"model_type": "gemma3_text", "head_dim": 256, "vocab_size": 262144, "max_position_embeddings": 32768}
GEMMA3 |= {"num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 512, "tie_word_embeddings": True}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SIGLIP |= {"image_size": 896, "patch_size": 14}
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_HEADS = {"num_key_value_heads": 2, "head_dim": 8}


def sizes(hidden: int, mlp: int, layers: int, heads: int, **more) -> dict:
    """Return the sizes of a decoder, under the names in Transformers' configs."""
    widths = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    return {**widths, "num_attention_heads": heads, **more}


def today(family: str, marker: str, end: str) -> Family:
    """Return a family whose template writes today's date into a system turn before the first message."""
    template = FAMILIES[family].template
    turn = f"{marker}Today Date: {{{{ strftime_now('%d %b %Y') }}}}{end}"
    before, bos, after = template.partition("{{ bos_token }}")
    return replace(FAMILIES[family], template=f"{before}{bos}{turn}{after}" if bos else f"{turn}{template}")


LLAMA_32 = today("Llama 3", "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")
SMOLLM3 = today("SmolLM 3", "<|im_start|>system\n", "<|im_end|>\n")
GPT2 = Family("", "<|endoftext|>", "<|endoftext|>", plain="ĠSolidGoldMagikarp")


@dataclass(frozen=True)
class RecipeModel:
    """A model of the recipes.

    Attributes:
        hub_id: its name in the recipe.
        parameters: parameters of the whole model, in millions.
        full: the settings of its config.
        tiny: the settings of a twin instead.
        family: the traits of its chat template.
    """

    hub_id: str
    parameters: float
    full: dict
    tiny: dict
    family: Family

    def config(self, is_tiny: bool = False, vocabulary: int | None = None) -> PreTrainedConfig:
        """The config of the model, or of its twin with another vocabulary."""
        settings = {"dtype": "float32" if is_tiny else "bfloat16", **self.full, **(self.tiny if is_tiny else {})}
        if vocabulary is not None:
            settings["vocab_size"] = vocabulary
            if "text_config" in settings:
                settings["text_config"] = settings["text_config"] | {"vocab_size": vocabulary}
        return AutoConfig.for_model(settings.pop("model_type"), **settings)

    def tokenizer(self):
        """A small tokenizer with the model's special tokens and the traits of its chat template."""
        made = tokenizer_of(self.family, base_tokenizer())
        if not self.family.template:
            made.chat_template, made.pad_token = None, made.eos_token
        return made


def qwen3(name: str, parameters: float, *widths: int, tied: bool) -> RecipeModel:
    full = {**QWEN3, **sizes(*widths), "tie_word_embeddings": tied}
    return RecipeModel(f"Qwen/{name}", parameters, full, {**TINY, **TINY_HEADS}, FAMILIES["Qwen 3"])


def llama3(name: str, parameters: float, *widths: int, tied: bool, family: Family) -> RecipeModel:
    full = {**LLAMA3, **sizes(*widths), "head_dim": widths[0] // widths[3], "tie_word_embeddings": tied}
    return RecipeModel(f"meta-llama/{name}", parameters, full, {**TINY, **TINY_HEADS}, family)


def gemma3(name: str, parameters: float, *widths: int) -> RecipeModel:
    tiny = {**TINY, **TINY_HEADS, "layer_types": ["sliding_attention", "full_attention"]}
    return RecipeModel(f"google/{name}", parameters, {**GEMMA3, **sizes(*widths)}, tiny, FAMILIES["Gemma 3"])


TEXT_OF_4B = {**GEMMA3, **sizes(2560, 10240, 34, 8), "num_key_value_heads": 4, "vocab_size": 262208}
TEXT_OF_4B |= {"sliding_window": 1024, "max_position_embeddings": 131072}
TINY_TEXT = {**TEXT_OF_4B, **TINY, **TINY_HEADS, "layer_types": ["sliding_attention", "full_attention"]}
TINY_SIGLIP = {**TINY, "hidden_size": 16, "image_size": 28, "patch_size": 14}
MODELS = {
    "qwen3-0.6b": qwen3("Qwen3-0.6B", 596, 1024, 3072, 28, 16, tied=True),
    "qwen3-4b": qwen3("Qwen3-4B", 4022, 2560, 9728, 36, 32, tied=True),
    "qwen3-8b": qwen3("Qwen3-8B", 8191, 4096, 12288, 36, 32, tied=False),
    "llama-3.2-1b": llama3("Llama-3.2-1B-Instruct", 1236, 2048, 8192, 16, 32, tied=True, family=LLAMA_32),
    "llama-3.2-3b": llama3("Llama-3.2-3B-Instruct", 3213, 3072, 8192, 28, 24, tied=True, family=LLAMA_32),
    "llama-3.1-8b": llama3("Llama-3.1-8B-Instruct", 8030, 4096, 14336, 32, 32, tied=False, family=FAMILIES["Llama 3"]),
    "gemma-3-270m": gemma3("gemma-3-270m-it", 268, 640, 2048, 18, 4),
    "gemma-3-1b": gemma3("gemma-3-1b-it", 1000, 1152, 6912, 26, 4),
    "gemma-3-4b": RecipeModel(
        "google/gemma-3-4b-it",
        4300,
        {"model_type": "gemma3", "text_config": TEXT_OF_4B, "vision_config": SIGLIP, "mm_tokens_per_image": 256},
        {"text_config": TINY_TEXT, "vision_config": TINY_SIGLIP, "mm_tokens_per_image": 4},
        FAMILIES["Gemma 3"],
    ),
    "smollm3-3b": RecipeModel(
        "HuggingFaceTB/SmolLM3-3B",
        3075,
        {
            **{"model_type": "smollm3", **sizes(2048, 11008, 36, 16), "num_key_value_heads": 4, "vocab_size": 128256},
            **{"max_position_embeddings": 65536, "tie_word_embeddings": True, "no_rope_layer_interval": 4},
        },
        {**TINY, "num_key_value_heads": 2, "no_rope_layer_interval": 2},
        SMOLLM3,
    ),
    "mistral-7b": RecipeModel(
        "mistralai/Mistral-7B-Instruct-v0.3",
        7248,
        {
            **{"model_type": "mistral", **sizes(4096, 14336, 32, 32), "num_key_value_heads": 8, "vocab_size": 32768},
            **{"max_position_embeddings": 32768, "sliding_window": None},
        },
        {**TINY, **TINY_HEADS},
        FAMILIES["Mistral v0.3"],
    ),
    "gpt2": RecipeModel(
        "openai-community/gpt2",
        124,
        {
            **{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
            **{"vocab_size": 50257, "dtype": "float32"},
        },
        {"n_embd": 32, "n_layer": 2, "n_head": 4},
        GPT2,
    ),
}


def write_model(folder: Path, model: RecipeModel, is_tiny: bool = False) -> str:
    """Write the config and the tokenizer of a model, or of its twin, into a folder, and return it. No weights."""
    tokenizer = model.tokenizer()
    tokenizer.save_pretrained(folder)
    config = model.config(is_tiny, len(tokenizer) if is_tiny else None)
    for part in (config, config.get_text_config()):
        part.eos_token_id, part.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        part.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(folder)
    return str(folder)
