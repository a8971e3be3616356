"""Chat templates with the traits of well-known model families, written for these tests; none is a copy.

They differ in markers, the position of end-of-text, and the handling of system text, tools and thinking.
"""

from dataclasses import replace

from template_parts import (
    AGP,
    ALTERNATE,
    CALLS,
    FIRST,
    SYSTEM_FIRST,
    SYSTEM_LAST,
    TOOLS_CHATML,
    Family,
    chatml,
    deepseek,
    gemma,
    headers,
    mistral,
    qwen3,
    roles,
)

from hfkit.data.built_in_templates import read_built_in

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
BUILT_IN = {
    **{"chatml": "ChatML", "gemma": "Gemma 3", "llama3": "Llama 3", "mistral": "Mistral v0.3", "qwen3": "Qwen 3"},
    "zephyr": "Zephyr",
}
"""hfkit's built-in templates, each with the family of its format."""
FAMILIES |= {f"built-in {name}": replace(FAMILIES[of], template=read_built_in(name)) for name, of in BUILT_IN.items()}
FAMILIES["built-in mistral"] = replace(FAMILIES["built-in mistral"], tools=False)
