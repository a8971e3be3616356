"""File names of a Hub repository that hfkit uploads and fetches: weights, tokenizer, documents, by pattern."""

from fnmatch import fnmatchcase

from hfkit.core.files import RECORD

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja", "chat_template.json"),
)
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""How a multimodal model reads images, videos and sound."""
WEIGHTS = ("model", "adapter_model")
MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", *PROCESSOR_FILES),
    *(f"{name}.safetensors" for name in WEIGHTS),
    *(f"{name}-?????-of-?????.safetensors" for name in WEIGHTS),
    *(f"{name}.safetensors.index.json" for name in WEIGHTS),
)
LOADED_FILES = (*MODEL_FILES, *TOKENIZER_FILES, RECORD)
"""Files that loaders look for: one left in a repository by an earlier model would be loaded with the new one."""
DOCUMENTS = ("README.md", "LICENSE", "LICENSE.*", "NOTICE", "NOTICE.*", "loss.png")
"""Files for people to read."""


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches one of the patterns; a `*` does not match a `/`."""
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
