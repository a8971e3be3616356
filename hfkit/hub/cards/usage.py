"""The section of a model card on usage: code in plain Transformers or PEFT that runs as it is."""

import json
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfkit.data.chat_template import encode_replies
from hfkit.data.messages import RenderError
from hfkit.data.rendering import template_kwargs
from hfkit.data.turn_end import turn_end
from hfkit.hub.cards.run_info import RunInfo

LONGEST_LINE = 110
_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def usage_section(info: RunInfo) -> str:
    """Return code blocks that can be run one after the other, in one process."""
    kind = "SequenceClassification" if info.is_reward_model else "CausalLM"
    loader = f"AutoPeftModelFor{kind}" if info.is_adapter else f"AutoModelFor{kind}"
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if info.is_reward_model else []
    call = partial(loader_call, loader, f'"{info.load_path}"', *options)
    template = _environment.get_template("usage.md.jinja")
    variables = template_kwargs(info.tokenizer) if info.tokenizer else {}
    return template.render(
        info=info,
        settings=info.record["config"],
        loader=loader,
        loader_call=call,
        variables="".join(f", {name}={value!r}" for name, value in variables.items()),
        score_line=partial(score_line, info),
    ).strip()


def loader_call(loader: str, *arguments: str) -> str:
    """Return a call of `from_pretrained`, broken into lines if it is long."""
    line = f"{loader}.from_pretrained({', '.join(arguments)})"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"{loader}.from_pretrained(", *(f"    {argument}," for argument in arguments), ")"])


def score_line(info: RunInfo, question: str, answer: str) -> str | None:
    """Return the line that ends a rendered `text` where the reward is read; None where only hfkit can render it.

    That is the token that ends the turn, whatever the template writes after it.
    """
    tokenizer = info.tokenizer
    if tokenizer is None or not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    try:
        wanted = encode_replies(tokenizer, messages[:1], [messages[1:]])[0]
    except RenderError:
        return None
    text = tokenizer.apply_chat_template(messages, tokenize=False, **template_kwargs(tokenizer))
    stop = tokenizer.convert_ids_to_tokens(turn_end(tokenizer).ids[-1])
    name = "tokenizer.eos_token" if stop == tokenizer.eos_token else json.dumps(stop)
    head, found, tail = text.rpartition(answer)
    if tail.count(stop) == 1:
        ended, line = text[: text.rindex(stop)] + stop, f"text = text[: text.rindex({name})] + {name}"
    elif stop in tail:
        ended = text[: text.index(stop, len(head))] + stop
        line = f'text = text[: text.index({name}, text.rindex("{answer}"))] + {name}'
    else:
        ended, line = head + found + stop, f'text = text[: text.rindex("{answer}")] + "{answer}" + {name}'
    return line if tokenizer(ended, add_special_tokens=False).input_ids == wanted else None
