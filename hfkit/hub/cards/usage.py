"""The section of a model card on usage: code in plain Transformers or PEFT that runs as it is."""

from hfkit.hub.cards.markdown import blocks
from hfkit.hub.cards.run_info import RunInfo

EXAMPLE_QUESTION = "What is the capital of France?"
EXAMPLE_ANSWER = "It is Paris."
LONGEST_LINE = 110


def usage_section(info: RunInfo) -> str:
    """Return code blocks that can be run one after the other, in one process."""
    if info.makes == "tokenizer":
        tokenize = f'print(tokenizer("{EXAMPLE_QUESTION}").input_ids)'
        return blocks(["from transformers import AutoTokenizer", "", tokenizer_line(info), tokenize], *run_where(info))
    kind = "SequenceClassification" if info.is_reward_model else "CausalLM"
    if info.is_adapter:
        loader = f"AutoPeftModelFor{kind}"
        imports = [f"from peft import {loader}", "from transformers import AutoTokenizer"]
    else:
        loader = f"AutoModelFor{kind}"
        imports = [f"from transformers import {loader}, AutoTokenizer"]
    options = ["num_labels=1", "pad_token_id=tokenizer.pad_token_id"] if info.is_reward_model else []
    load = [tokenizer_line(info), f"model = {call_loader(loader, info, *options)}"]
    code = [*imports, "", *load, *(score(info) if info.is_reward_model else generate(info))]
    return blocks(code, *load_quantized(info, loader, options), *score_with_hfkit(info), *run_where(info))


def tokenizer_line(info: RunInfo) -> str:
    return f'tokenizer = AutoTokenizer.from_pretrained("{info.load_path}")'


def call_loader(loader: str, info: RunInfo, *options: str) -> str:
    """Return a call of `from_pretrained`, broken into lines if it is long."""
    arguments = [f'"{info.load_path}"', *options]
    line = f"{loader}.from_pretrained({', '.join(arguments)})"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"{loader}.from_pretrained(", *(f"    {argument}," for argument in arguments), ")"])


def generate(info: RunInfo) -> list[str]:
    """Return lines that print a response, or from a base model the continuation of a text."""
    if info.chat_template and info.makes != "base model":
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        inputs = [
            f'messages = [{{"role": "user", "content": "{EXAMPLE_QUESTION}"}}]',
            f"inputs = tokenizer.apply_chat_template(messages, {options})",
        ]
    else:
        inputs = [f'inputs = tokenizer("{EXAMPLE_QUESTION}", return_tensors="pt")']
    return [
        "",
        *inputs,
        'ids = model.generate(input_ids=inputs["input_ids"], max_new_tokens=40)',
        "print(tokenizer.decode(ids[0]))",
    ]


def score(info: RunInfo) -> list[str]:
    """Return lines that print the reward of a response; [] without a chat template, which only hfkit handles.

    The reward is read at the end-of-text token after the response, whatever the template writes there.
    """
    if not info.chat_template:
        return []
    text = "text = tokenizer.apply_chat_template(messages, tokenize=False)"
    if info.template_writes_eos:
        texts = [text, "text = text[: text.rindex(tokenizer.eos_token)] + tokenizer.eos_token"]
    else:
        texts = [f"{text} + tokenizer.eos_token"]
    return [
        "",
        "messages = [",
        f'    {{"role": "user", "content": "{EXAMPLE_QUESTION}"}},',
        f'    {{"role": "assistant", "content": "{EXAMPLE_ANSWER}"}},',
        "]",
        *texts,
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        'print(model(input_ids=inputs["input_ids"]).logits.item())',
    ]


def load_quantized(info: RunInfo, loader: str, options: list[str]) -> list:
    """Return how to load an adapter on its base in the precision that it was trained in."""
    settings, bits = info.record["config"], info.quantized_bits
    if bits is None:
        return []
    arguments = [f"load_in_{bits}bit=True"]
    if bits == 4:
        arguments += [
            f'bnb_4bit_quant_type="{settings["bnb_4bit_quant_type"]}"',
            f"bnb_4bit_use_double_quant={settings['use_bnb_nested_quant']}",
        ]
    lines = [
        "from transformers import BitsAndBytesConfig",
        "",
        f"quantization = BitsAndBytesConfig({', '.join(arguments)})",
        f"model = {call_loader(loader, info, *options, 'quantization_config=quantization')}",
    ]
    return [f"The adapter was trained on its base in {bits} bits. To load it that way, which gives its metrics:", lines]


def score_with_hfkit(info: RunInfo) -> list:
    """Return how to score responses with hfkit, for a reward model."""
    if not info.is_reward_model:
        return []
    return [
        "With hfkit, for a batch of prompts and responses, with any chat template or none:",
        [
            "import hfkit",
            "",
            f'reward = hfkit.load_reward("{info.load_path}")',
            f'print(reward(["{EXAMPLE_QUESTION}"], ["{EXAMPLE_ANSWER}"]).item())',
        ],
    ]


def run_where(info: RunInfo) -> list[str]:
    """Return where the code runs, unless it runs anywhere."""
    if info.repo_id is None:
        return [f"Run this in the parent folder of `{info.name}`. After a push, the card names the Hub id instead."]
    if info.is_adapter and info.base_id is None:
        return ["The base is not on the Hub: this code runs only on the machine that has the base."]
    return []
