"""A chat template is code that comes with a model: it cannot hang, fill the memory, reach Python or the terminal."""

import json
import shutil

import pytest
from quick import slow
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hfkit.commands.export.go_template import literal
from hfkit.commands.export.modelfile import quote
from hfkit.core.errors import HfkitError
from hfkit.data import template_limits
from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template, reads_parts
from hfkit.data.system_prompt import system_prompt_of
from hfkit.data.template_limits import SOURCE, UnusableTemplateError
from hfkit.data.template_source import template_fault

SLOW = pytest.mark.slow
HI = [{"role": "user", "content": "Hi"}]
LOOP = "{% for i in range(100000) %}" * 3 + "{% endfor %}" * 3
DOUBLED = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x OP ns.x %}{% endfor %}"
TOO_LONG = "characters; the limit is"
TOO_DEEP = "is nested, or calls itself, too deeply"
MEMORY = "GB of memory"
UNSAFE = "rejected by the chat template: access to attribute"


@pytest.fixture(scope="module")
def small(tokenizer_dir, tmp_path_factory):
    """A folder with a random model and a tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_dir / name, folder)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=400, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def model_with(small, tmp_path):
    """model_with(template) -> a folder `model` whose tokenizer has this chat template."""

    def make(template: str):
        folder = shutil.copytree(small, tmp_path / "model")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 0.1)
    monkeypatch.setattr(template_limits, "MEMORY", 1 << 26)
    monkeypatch.setattr(template_limits, "_memory_read", -1.0)
    yield
    monkeypatch.setattr(template_limits, "_memory_read", -1.0)


@pytest.mark.hostile("chat templates")
@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", TOO_DEEP, id="a macro that calls itself"),
        pytest.param(
            "{{ 'a' * 10**10 }}", "repeats a text or list 10,000,000,000 times", id="a text repeated", marks=SLOW
        ),
        pytest.param("{{ 'a' * 300001 }}", "writes 300,001 characters for a", id="a long text written"),
        pytest.param("{{ '%10000000000d' % 1 }}", MEMORY, id="a width of ten digits"),
        pytest.param("{{ 'a'.ljust(10**10) }}", MEMORY, id="a method with a width"),
        pytest.param(
            "{{ 9 ** 9999999 }}", "computes ** with numbers that are too large", id="a power of powers", marks=SLOW
        ),
        pytest.param("{{ " + "(" * 99000 + "1" + ")" * 99000 + " }}", TOO_DEEP, id="nested parentheses"),
        pytest.param("a" * 10**8, TOO_LONG, id="100 MB of source", marks=SLOW),
        pytest.param("{% if %}", "is not Jinja: line 1", id="no Jinja"),
        pytest.param("{% for i in range(10**9) %}x{% endfor %}", "Range too big", id="a long range", marks=SLOW),
        pytest.param("{{ ''.__class__.__mro__ }}", UNSAFE, id="the class of a text", marks=SLOW),
        pytest.param(
            "{{ cycler.__init__.__globals__.os.system('touch code-has-run') }}", UNSAFE, id="cycler", marks=SLOW
        ),
        pytest.param("{{ lipsum.__globals__['os'].system('touch code-has-run') }}", UNSAFE, id="lipsum"),
        pytest.param(
            "{{ '{0.__class__}'.format('') }}",
            "rendered as an empty text by the chat template",
            id="an attribute in a format",
            marks=SLOW,
        ),
        pytest.param("{{ raise_exception('\x1b]0;owned\x07\x1b[2J') }}", r"\x1b]0;owned\x07", id="escape codes"),
        pytest.param("{{ raise_exception('x' * 100000) }}", "xxx...", id="a long exception", marks=SLOW),
        pytest.param("{% include '../secret.txt' %}", "no loader", id="a file included", marks=SLOW),
        pytest.param("{{ 1 // 0 }}", "division", id="a division by zero", marks=SLOW),
    ],
)
def test_a_chat_with_a_hostile_template_ends_in_a_sentence(template, message, model_with, attack, secret):
    model_with(template)
    ran = attack("chat", "model", "--prompt", "Hi")
    assert ran.status == 1 and message in ran.output and "the chat template" in ran.output
    assert len(ran.output) < 1000


@pytest.mark.hostile("chat templates")
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("sft", ["--datasets", "rows.jsonl", "--output_dir", "out", "--max_length", "64"]),
        slow("reward", ["--datasets", "rows.jsonl", "--output_dir", "out", "--max_length", "64"]),
        ("evaluate", ["--datasets", "rows.jsonl"]),
        slow("data preview", ["--stage", "sft", "--datasets", "rows.jsonl", "--max_length", "64"]),
        ("data check", ["--stage", "sft", "--datasets", "rows.jsonl", "--max_length", "64"]),
        ("init", ["--data", "rows.jsonl", "--yes", "--output_dir", "out"]),
    ],
)
def test_every_verb_refuses_it_before_anything_is_made(verb, words, model_with, attack, tmp_path):
    model_with("{{ 'a' * 10**10 }}")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Hi", "response": "Ho"}) + "\n")
    flag = {"init": "--model", "evaluate": "--models"}.get(verb, "--model_name_or_path")
    words = ["model", *words] if verb == "evaluate" else [flag, "model", *words]
    ran = attack(*verb.split(), *words)
    assert ran.status in (1, 2) and "the chat template of model repeats a text or list" in ran.output
    assert not (tmp_path / "out").exists()


@pytest.mark.hostile("chat templates")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LOOP, id="loop", marks=SLOW),
        pytest.param("a" * 10**7, id="long", marks=SLOW),
        pytest.param("{% if %}", id="no Jinja"),
        pytest.param(None, id="device"),
    ],
)
def test_a_template_of_the_config_is_checked(content, model_with, attack, tmp_path):
    model_with("{{ messages[0].content }}")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Hi", "response": "Ho"}) + "\n")
    given = "/dev/zero" if content is None else "own.jinja"
    if content is not None:
        (tmp_path / "own.jinja").write_text(content)
    ran = attack(
        *("sft", "--model_name_or_path", "model", "--datasets", "rows.jsonl", "--output_dir", "out"),
        *("--chat_template", given),
    )
    assert ran.status == 2 and given in ran.output and not (tmp_path / "out").exists()


@pytest.mark.hostile("chat templates")
@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(LOOP, "takes more than 0.1 s", id="nested loops"),
        pytest.param("{% generation %}" + LOOP + "{% endgeneration %}", "takes more than", id="loops in a generation"),
        pytest.param(
            "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "too deep", id="recursive loop"
        ),
        pytest.param(DOUBLED.replace("OP", "~"), "memory", id="a text doubled by ~"),
        pytest.param(DOUBLED.replace("OP", "+"), "memory", id="a text doubled by +"),
        pytest.param("{{ range(100000)|join('x' * 1000000) }}", "memory", id="a long text between many"),
        pytest.param("{% set x = 'a' * 100000 %}{{ x|replace('a', x) }}", "memory", id="a replacement"),
        pytest.param("{{ messages|tojson(indent=2000000000) }}", "memory", id="an indent of JSON"),
        pytest.param("{{ [1]|batch(10000000000, 0)|list }}", "memory", id="a batch"),
        pytest.param("{{ '{:1000000000d}'.format(1) }}", "memory", id="a format"),
        pytest.param("{{ '\t'.expandtabs(2000000000) }}", "memory", id="tabs"),
        pytest.param("{{ (1).to_bytes(10000000000, 'big') }}", "memory", id="bytes"),
        pytest.param("{{ messages|slice(10000000000)|list }}", "takes more than", id="slices"),
        pytest.param("{{ 1|round(1000000000, 'floor') }}", "rounds to 1,000,000,000 decimals", id="decimals"),
        pytest.param("{{ ([[1] * 9999] * 9999)|sum(start=[]) }}", "values that are not numbers", id="a sum of lists"),
        pytest.param(
            "{{ ('f' * 9999999)|int(base=16) // 3 }}", "numbers that are too large", id="a long number divided"
        ),
        pytest.param("{{ lipsum(n=1000000000) }}", "takes more than", id="much lorem ipsum"),
    ],
)
def test_time_and_memory_of_a_template_are_bounded(template, message, small, small_limits):
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.chat_template = "{% if messages[0].content == 'Bye' %}" + template + "{% endif %}"  # harmless at first
    assert Template(tokenizer).render(HI).text == ""
    with pytest.raises(UnusableTemplateError, match=f"the chat template of .*{message}.*HFKIT_TEMPLATE_LIMITS=10"):
        Template(tokenizer).render([{"role": "user", "content": "Bye"}])
    assert Template(tokenizer).render(HI).text == ""  # nothing of the limits stays


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [slow("{#- system_prompt -#}"), slow("strftime_now('"), slow("{%   "), "{{ a }}", slow("{% if a %}")]
)
def test_a_template_of_repeated_parts_is_parsed_in_seconds(text, small):
    source = text * (SOURCE // len(text) // 4)
    template_fault(source)
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.chat_template = source
    assert system_prompt_of(tokenizer) is None


@pytest.mark.slow
def test_a_long_conversation_may_be_rendered(small):
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    text = "Ann " * (SOURCE // 2)
    assert Template(tokenizer).render([{"role": "user", "content": text}]).text == text
    assert not reads_parts(tokenizer)


def test_the_limits_can_be_raised(small, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.chat_template = "{{ 'a' * 300001 }}"
    with pytest.raises(UnusableTemplateError, match="writes 300,001 characters"):
        Template(tokenizer).render(HI)
    monkeypatch.setenv("HFKIT_TEMPLATE_LIMITS", "10")
    template_limits.scale.cache_clear()
    try:
        assert Template(tokenizer).render(HI).text == "a" * 300001
    finally:
        template_limits.scale.cache_clear()


@pytest.mark.parametrize("text", ['"""\nFROM evil\n', '{{ .System }}"""\nSYSTEM x', 'a"'])
def test_a_text_of_a_template_gives_no_instruction_to_a_modelfile(text):
    with pytest.raises(HfkitError, match="a Modelfile cannot quote"):
        quote(text)


def test_a_text_of_a_template_is_not_an_action_of_a_go_template():
    assert literal("a{{ .Env }}{{{b") == 'a{{ "{{" }} .Env }}{{ "{{" }}{b'


def test_what_a_template_says_is_short_and_printable(small):
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.chat_template = "{{ raise_exception('\x1b[2J' ~ 'x' * 100000) }}"
    with pytest.raises(RenderError) as raised:
        Template(tokenizer).render(HI)
    assert len(str(raised.value)) < 400 and str(raised.value).startswith(r"rejected by the chat template: \x1b[2Jxxx")
