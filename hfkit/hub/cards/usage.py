"""The usage section of a model card: complete code in plain Transformers or PEFT."""

from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfkit.hub.cards.run_info import RunInfo

LONGEST_LINE = 110
_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def usage_section(info: RunInfo) -> str:
    """Return code blocks that run one after the other in one process."""
    kind = "SequenceClassification" if info.is_reward_model else "CausalLM"
    loader = f"AutoPeftModelFor{kind}" if info.is_adapter else f"AutoModelFor{kind}"
    # the config of a multimodal model has its padding token in the text config, and is changed before it is loaded
    has_options = info.is_reward_model and not info.multimodal
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if has_options else []
    call = partial(loader_call, loader, f'"{info.load_path}"', *options)
    values = {
        "info": info,
        "settings": info.record["config"],
        "loader": loader,
        "loader_call": call,
        "base_config": None,
    }
    if info.is_reward_model and info.is_adapter and info.multimodal:
        base = ("adapter.base_model_name_or_path", "revision=adapter.revision")  # no local path in a card
        values["base_config"] = loader_call("AutoConfig", *base) + ".get_text_config()" * (info.multimodal == "text")
        values["loader_call"] = partial(adapter_call, info.load_path, *base, "config=config")
    return _environment.get_template("usage.md.jinja").render(values).strip()


def adapter_call(adapter: str, *arguments: str) -> str:
    """Return a call that loads a reward model's base with the arguments, and the adapter onto it."""
    base = loader_call("AutoModelForSequenceClassification", *arguments)
    return f'PeftModel.from_pretrained({base}, "{adapter}")'


def loader_call(loader: str, *arguments: str) -> str:
    """Return a call of `from_pretrained`, broken into lines if it is long."""
    line = f"{loader}.from_pretrained({', '.join(arguments)})"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"{loader}.from_pretrained(", *(f"    {argument}," for argument in arguments), ")"])
