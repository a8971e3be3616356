"""Chat templates with the traits of well-known model families, written for these tests; none is a copy.

What differs: the markers, where end-of-text stands, what becomes of system text, of tools, and of thinking.
"""

import copy
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "Where is Oslo? Oslo is in Norway. And Rome? Rome is in Italy. Be brief. What is two and two? It is four. " * 9
FIRST = "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set rest = messages[1:] %}"
FIRST += "{% else %}{% set rest = messages %}{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATE = (
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TOOLS_CHATML = (
    "{% if tools %}<|im_start|>system\n{{ messages[0].content + '\n\n' if messages[0].role == 'system' }}<tools>"
    "{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n</tools><|im_end|>\n{% elif messages[0].role == 'system' %}"
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
)
CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '\n' if not loop.first or m.content }}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
)
AGP = "{% if add_generation_prompt %}"


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        end: the text that ends a turn, and is trained with it.
        opens: what the template writes between the generation prompt and the text of a reply.
        special: special tokens beside `eos` and `bos`.
        plain: added tokens that are not special.
        tools: whether the template has tools.
        call_end: the text that ends a turn of tool calls, where it is another one.
        thinks: pairs of a family's own text around the thinking of a reply, in place of <think>.
    """

    template: str
    end: str
    eos: str
    special: str = ""
    plain: str = ""
    bos: str | None = None
    opens: str = ""
    tools: bool = False
    call_end: str = ""
    thinks: tuple[str, str] = ()


def chatml(system="", *, eos="<|im_end|>", special="<|im_start|> <|im_end|>", **options) -> Family:
    """Return a family whose every message stands between im_start and im_end."""
    template = system + (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        + AGP
        + "<|im_start|>assistant\n{% endif %}"
    )
    return Family(template, "<|im_end|>", eos, special, **options)


def headers(start: str, stop: str, end: str, bos: str, text="{{ m.content | trim }}", eos=None, **options) -> Family:
    """Return a family whose messages begin with their role between two markers."""
    template = f"{{{{ bos_token }}}}{{% for m in messages %}}{start}{{{{ m.role }}}}{stop}{text}{end}{{% endfor %}}"
    template += f"{AGP}{start}assistant{stop}{{% endif %}}"
    return Family(
        template, end.strip(), eos or end.strip(), f"{start} {stop.strip()} {end.strip()}", bos=bos, **options
    )


MISTRAL_TURN = (
    "{% if m.role == 'user' %}[INST]{{ user }}[/INST]{% elif m.role == 'assistant' %}{{ lead + (m.content or '') }}"
    "{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}{% endfor %}]{% endif %}'
    "{{ eos_token }}{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% endif %}"
)
MISTRAL_TOOLS = (
    "{% if tools and m.role == 'user' and loop.index0 == last.i %}[AVAILABLE_TOOLS]{{ tools | tojson }}"
    "[/AVAILABLE_TOOLS]{% endif %}"
)
LAST_USER = "{% set last = namespace(i=0) %}{% for m in rest %}{% if m.role == 'user' %}"
LAST_USER += "{% set last.i = loop.index0 %}{% endif %}{% endfor %}"


def mistral(user: str, lead: str = "", tools: bool = True, bos: str = "<s>", checks: str = "") -> Family:
    """Return a family whose user messages stand between [INST] and [/INST]."""
    template = FIRST + checks + LAST_USER + "{{ bos_token }}{% for m in rest %}" + (MISTRAL_TOOLS if tools else "")
    template += f"{{% set lead = '{lead}' %}}{{% set user = {user} %}}{MISTRAL_TURN}{{% endfor %}}"
    special = "[INST] [/INST] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS]"
    return Family(template, "</s>", "</s>", special, bos=bos, opens=lead, tools=tools)


SYSTEM_FIRST = "(sys + '\n\n' if loop.first and sys is defined else '') + (m.content or '')"
SYSTEM_LAST = "(sys + '\n\n' if loop.last and sys is defined else '') + (m.content or '')"


def gemma(**options) -> Family:
    """Return a family whose end of a turn is not its end-of-text; Gemma 3 puts the system text into the first turn."""
    first = FIRST if options.pop("system", False) else NO_SYSTEM + "{% set rest = messages %}"
    template = (
        first
        + ALTERNATE
        + (
            "{{ bos_token }}{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ sys + '\n\n' if loop.first and sys is defined }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
            + AGP
            + "<start_of_turn>model\n{% endif %}"
        )
    )
    return Family(template, "<end_of_turn>", "<eos>", "<start_of_turn> <end_of_turn>", bos="<bos>", **options)


def roles(end: str, tail: str, *, eos="<|endoftext|>", gap="\n", prompt="<|assistant|>\n", **options) -> Family:
    """Return a family of markers <|user|> and <|assistant|>; `tail` stands where there is no generation prompt."""
    template = f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{gap}{{{{ m.content }}}}{end}{{% endfor %}}"
    template += f"{AGP}{prompt}{{% else %}}{tail}{{% endif %}}"
    options = {"special": "<|system|> <|user|> <|assistant|> <|end|>"} | options
    return Family(template, options.pop("stop", end.strip() or eos), eos, **options)


def qwen3(prompt: str = "") -> Family:
    """Return a family that thinks in the reply to the last user message only; with `prompt`, the thinking is opened."""
    template = (
        "{% set last = namespace(i=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set last.i = loop.index0 %}{% endif %}{% endfor %}" + TOOLS_CHATML + "{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% set parts = (m.content or '').split('</think>') %}"
        "{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
        "<|im_start|>assistant\n{% if loop.index0 > last.i and (loop.last or thought) %}"
        "<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}" + CALLS + "<|im_end|>\n"
        "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
        "{% elif m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        + AGP
        + "<|im_start|>assistant\n"
        + prompt
        + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    plain = "<think> </think> <tool_call> </tool_call> <tool_response> </tool_response>"
    opens = "<think>\n\n</think>\n\n".removeprefix(prompt)
    return Family(template, "<|im_end|>", "<|im_end|>", "<|im_start|>", plain, opens=opens, tools=True)


def deepseek(prompt: str, reply: str = "") -> Family:
    """Return a family whose tool calls take their arguments as text, and whose replies lose their thinking."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
        "<|User|>{{ m.content }}{% elif m.role == 'tool' %}<|tool_out|>{{ m.content }}<|tool_end|>{% else %}"
        "<|Assistant|>" + reply + "{{ (m.content or '').split('</think>')[-1] }}{% for c in m.tool_calls or [] %}"
        "{{ '<|call|>' + c.function.name + '\n' + c.function.arguments + '<|call_end|>' }}{% endfor %}{{ eos_token }}"
        "{% endif %}{% endfor %}" + AGP + "<|Assistant|>" + prompt + "{% endif %}"
    )
    special = "<|User|> <|Assistant|> <|tool_out|> <|tool_end|> <|call|> <|call_end|>"
    return Family(template, "<|eos|>", "<|eos|>", special, "<think> </think>", bos="<|bos|>", tools=not prompt)


FAMILIES = {
    "Llama 2": Family(
        FIRST + ALTERNATE + "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{{ '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' if loop.first and sys is defined }}{{ m.content | trim }} [/INST]"
        "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        " </s>",
        "</s>",
        bos="<s>",
        opens=" ",
    ),
    "Llama 3": headers("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "<|begin_of_text|>"),
    "Llama 3 base": headers(
        "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "<|begin_of_text|>", eos="<|end_of_text|>"
    ),
    "Llama 4": headers("<|header_start|>", "<|header_end|>\n\n", "<|eot|>", "<|begin_of_text|>"),
    "Mistral v0.1": mistral(SYSTEM_FIRST, tools=False, checks=ALTERNATE),
    "Mistral v0.3": mistral(SYSTEM_LAST, " "),
    "Mistral Nemo": mistral(SYSTEM_LAST),
    "Mistral Small": mistral("m.content", tools=False).__class__(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}"
        "[/SYSTEM_PROMPT]{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content + eos_token }}"
        "{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        "[INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]",
        bos="<s>",
    ),
    "Qwen 2.5": chatml(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
        special="<|im_start|> <|endoftext|>",
    ),
    "Qwen 3": qwen3(),
    "Qwen 3 Thinking": qwen3("<think>\n"),
    "Gemma 2": gemma(),
    "Gemma 3": gemma(system=True),
    "Phi 3": roles("<|end|>\n", "{{ eos_token }}"),
    "Phi 4": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        + AGP
        + "<|im_start|>assistant<|im_sep|>{% endif %}",
        "<|im_end|>",
        "<|endoftext|>",
        "<|im_start|> <|im_sep|> <|im_end|>",
    ),
    "Phi 4 mini": roles("<|end|>", "{{ eos_token }}", gap="", prompt="<|assistant|>"),
    "DeepSeek V3": deepseek(""),
    "DeepSeek V3.1": deepseek("</think>", "</think>"),
    "DeepSeek R1": deepseek("<think>\n"),
    "QwQ": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        + AGP
        + "<|im_start|>assistant\n<think>\n{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
        "<think> </think>",
    ),
    "GLM 4": Family(
        "[gMASK]<sop>{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n"
        "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}\n"
        "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}" + AGP + "<|assistant|>\n{% endif %}",
        "<|user|>",
        "<|endoftext|>",
        "[gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>",
        call_end="<|observation|>",
    ),
    "Granite": headers(
        "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\n", None, "{{ m.content }}", eos="<|end_of_text|>"
    ),
    "Nemotron": headers("<extra_id_0>", "\n", "<extra_id_1>\n", None, "{{ m.content | trim }}", eos="<|eos|>"),
    "Command R": Family(
        "{{ bos_token }}{% for m in messages %}<|START_OF_TURN|><|{{ m.role | upper }}_TOKEN|>{{ m.content | trim }}"
        "<|END_OF_TURN|>{% endfor %}" + AGP + "<|START_OF_TURN|><|ASSISTANT_TOKEN|>{% endif %}",
        "<|END_OF_TURN|>",
        "<|END_OF_TURN|>",
        "<|START_OF_TURN|> <|USER_TOKEN|> <|SYSTEM_TOKEN|> <|ASSISTANT_TOKEN|>",
        bos="<BOS>",
    ),
    "Command R7B": Family(
        "{{ bos_token }}{% for m in messages %}<|START_OF_TURN|><|{{ m.role | upper }}_TOKEN|>"
        "{% if m.role == 'assistant' %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% else %}{{ m.content }}"
        "{% endif %}<|END_OF_TURN|>{% endfor %}" + AGP + "<|START_OF_TURN|><|ASSISTANT_TOKEN|>{% endif %}",
        "<|END_RESPONSE|><|END_OF_TURN|>",
        "<|END_OF_TURN|>",
        "<|START_OF_TURN|> <|USER_TOKEN|> <|SYSTEM_TOKEN|> <|ASSISTANT_TOKEN|> <|START_RESPONSE|> <|END_RESPONSE|>",
        bos="<BOS>",
        opens="<|START_RESPONSE|>",
    ),
    "OLMo 2": Family(
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' }}{{ '\n' if not (m.role == 'assistant' and loop.last) }}{% endfor %}"
        + AGP
        + "<|assistant|>\n{% endif %}",
        "<|endoftext|>",
        "<|endoftext|>",
        bos="<|endoftext|>",
    ),
    "OLMo 3": roles("<|im_end|>\n", "", gap="\n", special="<|im_end|> <|user|> <|assistant|> <|system|>"),
    "SmolLM 2": chatml(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are SmolLM.<|im_end|>\n{% endif %}"
    ),
    "SmolLM 3": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think>\n\n</think>\n' if m.role == 'assistant' and "
        "enable_thinking is defined and not enable_thinking }}{{ m.content }}<|im_end|>\n{% endfor %}"
        + AGP
        + "<|im_start|>assistant\n{{ '<think>\n\n</think>\n' if enable_thinking is defined and not enable_thinking }}"
        "{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
        "<think> </think>",
    ),
    "Yi": chatml(eos="<|endoftext|>"),
    "Falcon 3": roles(
        "{{ eos_token if m.role == 'assistant' }}{{ '\n' if not (m.role == 'assistant' and loop.last) }}",
        "",
        stop="<|endoftext|>",
        special="",
    ),
    "gpt-oss": Family(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}<|start|>assistant"
        "<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant{% if m.tool_calls %}"
        "{% for c in m.tool_calls %} to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>"
        "{{ c.function.arguments | tojson }}<|call|>{% endfor %}{% else %}<|channel|>final<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% elif m.role == 'tool' %}<|start|>functions "
        "to=assistant<|channel|>commentary<|message|>{{ m.content }}<|end|>{% else %}<|start|>{{ m.role }}<|message|>"
        "{{ m.content }}<|end|>{% endif %}{% endfor %}" + AGP + "<|start|>assistant{% endif %}",
        "<|return|>",
        "<|return|>",
        "<|start|> <|channel|> <|message|> <|end|> <|call|>",
        opens="<|channel|>final<|message|>",
        tools=True,
        call_end="<|call|>",
        thinks=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ),
    "Gemma 4": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}response:{{ m.content }}<tool_response|>"
        "{% else %}{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}<|turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{% endif %}{% if m.reasoning and loop.last %}"
        "<|channel>thought\n{{ m.reasoning }}\n<channel|>{% endif %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "<|tool_call>call:{{ c.function.name }}{{ c.function.arguments | tojson }}<tool_call|>{% endfor %}"
        "<|tool_response>{% else %}{{ m.content | trim }}<turn|>\n{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|turn>model\n"
        "{% if not enable_thinking | default(false) %}<|channel>thought\n<channel|>{% endif %}{% endif %}",
        "<turn|>",
        "<eos>",
        "<|turn> <turn|> <|channel> <channel|> <|tool_call> <tool_call|> <|tool_response> <tool_response|>",
        bos="<bos>",
        tools=True,
        call_end="<|tool_response>",
        thinks=("<|channel>thought\n", "\n<channel|>"),
    ),
    "Hermes 3": Family(
        TOOLS_CHATML + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>tool\n<tool_response>\n"
        "{{ m.content }}\n</tool_response><|im_end|>\n{% elif m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{{ m.content or '' }}"
        + CALLS
        + "<|im_end|>\n{% endif %}{% endfor %}"
        + AGP
        + "<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
        "<tool_call> </tool_call> <tool_response> </tool_response>",
        tools=True,
    ),
    "ChatML": chatml(),
    "ChatML, markers as text": chatml(eos="</s>", special="").__class__(chatml().template, "</s>", "</s>", bos="<s>"),
    "Zephyr": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
        + AGP
        + "<|assistant|>\n{% endif %}",
        "</s>",
        "</s>",
        bos="<s>",
    ),
    "Vicuna": Family(
        FIRST + "{{ (sys if sys is defined else 'A chat.') + ' ' }}{% for m in rest %}{% if m.role == 'user' %}"
        "USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content + eos_token }}{% endif %}{% endfor %}"
        + AGP
        + "ASSISTANT:{% endif %}",
        "</s>",
        "</s>",
        bos="<s>",
        opens=" ",
    ),
    "End-of-text twice": roles("{{ eos_token * 2 if m.role == 'assistant' }}", "", stop="<|endoftext|>", special=""),
    "hfkit": Family("", "<|endoftext|>", "<|endoftext|>", "<|system|> <|user|> <|assistant|>"),
}


def base_tokenizer() -> Tokenizer:
    """Return a small byte-level BPE without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def tokenizer_of(family: Family, base: Tokenizer) -> PreTrainedTokenizerFast:
    """Return the base tokenizer with the tokens and the template of a family, as `read_tokenizer` returns it."""
    tokenizer = copy.deepcopy(base)
    special = [*dict.fromkeys([*family.special.split(), family.eos, *([family.bos] if family.bos else []), "<pad>"])]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain.split()])
    options = {"bos_token": family.bos} if family.bos else {}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=family.eos, pad_token="<pad>", **options)
    made.chat_template, made.chat_control_tokens = family.template, []
    return made
