"""How to load what a card is about, in a few lines of plain Transformers or PEFT that run as they stand."""

from hfkit.hub.cards.artefact import Artefact
from hfkit.hub.cards.markdown import blocks

EXAMPLE_QUESTION = "What is the capital of France?"
ANSWER = "It is Paris."


def loading_section(artefact: Artefact) -> str:
    """The section on loading: code blocks that can be run one after the other, in one process."""
    if artefact.stage == "tokenizer":
        return blocks(tokenizer_lines(artefact), *where(artefact))
    kind = "SequenceClassification" if artefact.is_reward else "CausalLM"
    library, prefix = ("peft", "AutoPeft") if artefact.is_adapter else ("transformers", "Auto")
    loader = f"{prefix}ModelFor{kind}"
    names = ["AutoTokenizer"] if library == "peft" else [loader, "AutoTokenizer"]
    lines = [f"from peft import {loader}"] if library == "peft" else []
    lines += [f"from transformers import {', '.join(names)}", "", *tokenizer_lines(artefact)[2:3]]
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if artefact.is_reward else []
    lines += [f"model = {call(loader, artefact, *options)}", *use(artefact)]
    return blocks(lines, *quantized(artefact, loader, options), *by_hfkit(artefact), *where(artefact))


def tokenizer_lines(artefact: Artefact) -> list[str]:
    return [
        "from transformers import AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{artefact.place}")',
        f'print(tokenizer("{EXAMPLE_QUESTION}").input_ids)',
    ]


def call(loader: str, artefact: Artefact, *options: str) -> str:
    """A call of `from_pretrained`, broken into lines where it is long."""
    arguments = [f'"{artefact.place}"', *options]
    line = f"{loader}.from_pretrained({', '.join(arguments)})"
    return line if len(line) <= 110 else f"{loader}.from_pretrained(\n    " + ",\n    ".join(arguments) + ",\n)"


def use(artefact: Artefact) -> list[str]:
    """A reply, or a reward, from `model` and `tokenizer`; a reward model without a template is left to hfkit."""
    if artefact.is_reward:
        return scored(artefact) if artefact.template else []
    if artefact.template and not is_pretrained(artefact):
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        rendered = [
            f'messages = [{{"role": "user", "content": "{EXAMPLE_QUESTION}"}}]',
            f"inputs = tokenizer.apply_chat_template(messages, {options})",
        ]
    else:
        rendered = [f'inputs = tokenizer("{EXAMPLE_QUESTION}", return_tensors="pt")']
    return [
        "",
        *rendered,
        'ids = model.generate(input_ids=inputs["input_ids"], max_new_tokens=40)',
        "print(tokenizer.decode(ids[0]))",
    ]


def scored(artefact: Artefact) -> list[str]:
    """The reward of a reply: at its end-of-text token, whatever a template would write after or in place of it."""
    text = "text = tokenizer.apply_chat_template(messages, tokenize=False)"
    if artefact.template_ends_turns:
        ended = [text, "text = text[: text.rindex(tokenizer.eos_token)] + tokenizer.eos_token"]
    else:
        ended = [f"{text} + tokenizer.eos_token"]
    return [
        "",
        "messages = [",
        f'    {{"role": "user", "content": "{EXAMPLE_QUESTION}"}},',
        f'    {{"role": "assistant", "content": "{ANSWER}"}},',
        "]",
        *ended,
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        'print(model(input_ids=inputs["input_ids"]).logits.item())',
    ]


def is_pretrained(artefact: Artefact) -> bool:
    """Whether it goes on with a text, and answers nothing: pretrained, or merged from an adapter that was."""
    stages = {artefact.stage} | {parent["stage"] for parent in artefact.record["lineage"][:1]}
    return artefact.stage in ("pretrain", "merge") and "pretrain" in stages


def quantized(artefact: Artefact, loader: str, options: list[str]) -> list:
    """How to open an adapter on its base in the bits that it was trained over."""
    settings = artefact.record["config"]
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None
    if bits is None or not artefact.is_adapter:
        return []
    given = [f"load_in_{bits}bit=True"]
    if bits == 4:
        given += [
            f'bnb_4bit_quant_type="{settings["bnb_4bit_quant_type"]}"',
            f"bnb_4bit_use_double_quant={settings['use_bnb_nested_quant']}",
        ]
    lines = [
        "from transformers import BitsAndBytesConfig",
        "",
        f"quantization = BitsAndBytesConfig({', '.join(given)})",
        f"model = {call(loader, artefact, *options, 'quantization_config=quantization')}",
    ]
    return [f"It was trained over its base in {bits} bits, and is at its best there:", lines]


def by_hfkit(artefact: Artefact) -> list:
    """The same with hfkit, where plain lines leave something to be done by hand."""
    if not artefact.is_reward:
        return []
    return [
        "With hfkit, for any number of prompts and replies, with any chat template or none:",
        [
            "import hfkit",
            "",
            f'reward = hfkit.load_reward("{artefact.place}")',
            f'print(reward(["{EXAMPLE_QUESTION}"], ["{ANSWER}"]).item())',
        ],
    ]


def where(artefact: Artefact) -> list[str]:
    """Where these lines run, as long as it is not everywhere."""
    if artefact.repo_id is None:
        return ["In the folder that this one lies in; pushed, its card has its Hub id."]
    if artefact.is_adapter and artefact.base_id is None:
        return ["Its base has not been pushed: these lines run where the base lies, and nowhere else."]
    return []
