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
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if info.is_reward_model else []
    call = partial(loader_call, loader, f'"{info.load_path}"', *options)
    template = _environment.get_template("usage.md.jinja")
    return template.render(info=info, settings=info.record["config"], loader=loader, loader_call=call).strip()


def loader_call(loader: str, *arguments: str) -> str:
    """Return a call of `from_pretrained`, broken into lines if it is long."""
    line = f"{loader}.from_pretrained({', '.join(arguments)})"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"{loader}.from_pretrained(", *(f"    {argument}," for argument in arguments), ")"])
