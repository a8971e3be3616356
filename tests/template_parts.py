"""Parts of the chat templates of model families, and functions that create similar families."""

from dataclasses import dataclass

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
        end: the text that ends a turn and is trained with it.
        opens: the text that the template writes between the generation prompt and the response.
        special: special tokens besides `eos` and `bos`.
        plain: added tokens that are not special.
        tools: whether the template has tools.
        call_end: the text that ends a turn of tool calls, if different.
        thinks: pairs of a family's own text around the thinking of a response, instead of <think>.
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
    """Return a family that writes every message between im_start and im_end."""
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
    """Return a family that writes user messages between [INST] and [/INST]."""
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
    """Return a family of markers <|user|> and <|assistant|>; `tail` is written if there is no generation prompt."""
    template = f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{gap}{{{{ m.content }}}}{end}{{% endfor %}}"
    template += f"{AGP}{prompt}{{% else %}}{tail}{{% endif %}}"
    options = {"special": "<|system|> <|user|> <|assistant|> <|end|>"} | options
    return Family(template, options.pop("stop", end.strip() or eos), eos, **options)


def qwen3(prompt: str = "") -> Family:
    """Return a family that thinks only in the response to the last user message; with `prompt`, thinking is opened."""
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
    """Return a family whose tool calls have arguments as text, and whose responses lose their thinking."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
        "<|User|>{{ m.content }}{% elif m.role == 'tool' %}<|tool_out|>{{ m.content }}<|tool_end|>{% else %}"
        "<|Assistant|>" + reply + "{{ (m.content or '').split('</think>')[-1] }}{% for c in m.tool_calls or [] %}"
        "{{ '<|call|>' + c.function.name + '\n' + c.function.arguments + '<|call_end|>' }}{% endfor %}{{ eos_token }}"
        "{% endif %}{% endfor %}" + AGP + "<|Assistant|>" + prompt + "{% endif %}"
    )
    special = "<|User|> <|Assistant|> <|tool_out|> <|tool_end|> <|call|> <|call_end|>"
    return Family(template, "<|eos|>", "<|eos|>", special, "<think> </think>", bos="<|bos|>", tools=not prompt)
