"""A model leaves in the form of other programs: whole or not at all, and only where that is possible."""

import os
import shlex
from pathlib import Path

import pytest
from chat_formats import NO_SYSTEM, expected, messages_of
from merging import edit
from template_families import FAMILIES
from transformers import AutoTokenizer, GenerationConfig

from hfkit.cli import main
from hfkit.commands.export.chat_format import SYSTEM_TEXT, read_chat_format
from hfkit.commands.export.converter import SCRIPT, VARIABLE
from hfkit.commands.export.go_template import go_template
from hfkit.commands.export.main import export
from hfkit.commands.export.modelfile import modelfile
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.built_in_templates import BUILT_IN_TOKENS, read_built_in
from hfkit.data.template_source import without_generation_tags
from hfkit.records.record import weights_hash
from hfkit.stages.tokenizer import CHAT_TEMPLATE


@pytest.fixture
def no_converter(monkeypatch, tmp_path):
    """No llama.cpp on this machine."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))


@pytest.fixture
def failing_converter(tmp_path):
    """A folder of a llama.cpp whose converter knows nothing."""
    folder = tmp_path / "llama.cpp"
    (folder / "gguf-py").mkdir(parents=True)
    script = "class ModelBase: ...\n\nclass TextModel:\n    def get_vocab_base_pre(self, tokenizer): ...\n\n"
    (folder / SCRIPT).write_text(script + "def main():\n    raise SystemExit('Model X is not supported')\n")
    return folder


# What a chat template writes


@pytest.mark.parametrize("name", FAMILIES)
def test_the_format_of_a_family_renders_as_its_template(tokenizer_for, name):
    tokenizer = tokenizer_for(name)
    found = read_chat_format(tokenizer, name)
    assert (found.system_at is None) == (name in NO_SYSTEM)
    for users in (1, 2, 3):
        for system in (None, *([SYSTEM_TEXT] if name not in NO_SYSTEM else [])):
            contents = [message["content"] for message in messages_of(users)]
            assert found.render(contents, system) == expected(tokenizer, users, system, found.prompt)


BUILT_IN = {"chatml": "ChatML", "gemma": "Gemma 3", "llama3": "Llama 3", "mistral": "Mistral v0.1", "qwen3": "Qwen 3"}
BUILT_IN |= {"zephyr": "Zephyr"}


@pytest.mark.parametrize("name", BUILT_IN_TOKENS)
def test_a_built_in_template_has_a_format(tokenizer_for, name):
    tokenizer = tokenizer_for(BUILT_IN[name])
    tokenizer.chat_template = read_built_in(name)
    found = read_chat_format(tokenizer, name)
    for system in (None, SYSTEM_TEXT):
        contents = [message["content"] for message in messages_of(3)]
        assert found.render(contents, system) == expected(tokenizer, 3, system, found.prompt)


@pytest.mark.parametrize(
    "written",
    ["{{ m.content | upper }}", "{{ loop.index }}: {{ m.content }}", "{{ m.content }}{{ '!' if loop.length > 4 }}"],
)
def test_a_template_that_writes_more_is_refused(with_template, written):
    template = "{% for m in messages %}<|{{ m.role }}|>\n" + written + "\n{% endfor %}<|assistant|>\n"
    reported = "the chat template of x does more than write text around messages.*--format gguf"
    with pytest.raises(HfkitError, match=reported):
        read_chat_format(with_template(template), "x")


def test_without_its_tags_a_template_renders_the_same(tokenizer, with_template):
    plain = without_generation_tags(CHAT_TEMPLATE.read_text())
    assert "generation -%}" not in plain
    for users in (1, 3):
        assert expected(with_template(plain), users, SYSTEM_TEXT) == expected(tokenizer, users, SYSTEM_TEXT)


# The Modelfile

OWN = """FROM ./model-f16.gguf
TEMPLATE \"\"\"{{ if $.System }}<|system|>
{{ $.System }}
{{ end }}{{ range $index, $message := .Messages }}{{ $last := eq (len (slice $.Messages $index)) 1 }}\
{{ if eq .Role "user" }}<|user|>
{{ .Content }}
{{ if $last }}<|assistant|>
{{ end }}{{ end }}{{ if eq .Role "assistant" }}<|assistant|>
{{ .Content }}{{ if not $last }}<|endoftext|>
{{ end }}{{ end }}{{ end }}\"\"\"
PARAMETER stop \"\"\"<|endoftext|>\"\"\"
"""


def written(tokenizer, adds_bos=False, **settings) -> str:
    return modelfile("m.gguf", tokenizer, GenerationConfig(**settings), read_chat_format(tokenizer, "x"), adds_bos)


def test_the_modelfile_of_our_own_template(tokenizer):
    found = modelfile("model-f16.gguf", tokenizer, GenerationConfig(), read_chat_format(tokenizer, "x"), False)
    assert found == OWN


def test_a_model_without_a_chat_template_completes_texts(with_template):
    text = modelfile("m.gguf", with_template(None), GenerationConfig(), None, False)
    assert text == 'FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop """<|endoftext|>"""\n'


def test_a_default_system_text_is_the_modelfiles(tokenizer_for):
    assert 'SYSTEM """You are SmolLM."""\n' in written(tokenizer_for("SmolLM 2"))


def test_a_bos_token_is_written_once(tokenizer_for):
    llama = tokenizer_for("Llama 3")
    assert "<|begin_of_text|>" not in written(llama, adds_bos=True)
    assert written(llama).count("<|begin_of_text|>") == 1


def test_a_bos_token_that_begins_every_turn_is_part_of_the_turns(tokenizer_for):
    tokenizer = tokenizer_for("ChatML")
    tokenizer.bos_token = "<|im_start|>"
    found = read_chat_format(tokenizer, "x")
    assert (found.bos, found.user, found.system[0]) == (
        "",
        ("<|im_start|>user\n", "<|im_end|>\n"),
        "<|im_start|>system\n",
    )


def test_every_stop_token_and_the_sampling_settings(tokenizer_for):
    tokenizer = tokenizer_for("Gemma 3")
    end, stop = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    text = written(tokenizer, do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.1, eos_token_id=[end])
    assert text.splitlines()[-5:] == [
        'PARAMETER stop """<eos>"""',
        'PARAMETER stop """<end_of_turn>"""',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.9",
        "PARAMETER repeat_penalty 1.1",
    ]
    assert "temperature" not in written(tokenizer, temperature=0.6, eos_token_id=[end, stop])


def test_a_template_without_system_messages_says_so(tokenizer_for):
    assert "# The chat template has no system message" in written(tokenizer_for("Gemma 2"))


def test_thinking_follows_the_request(tokenizer_for):
    template = go_template(read_chat_format(tokenizer_for("Qwen 3"), "x"), adds_bos=False)
    on = "{{ if $.Think }}<|im_start|>assistant\n{{ end }}"
    off = "{{ if not $.Think }}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ end }}"
    default = "{{ if not $.IsThinkSet }}<|im_start|>assistant\n{{ end }}"
    assert f"{{{{ if $last }}}}{{{{ if $.IsThinkSet }}}}{on}{off}{{{{ end }}}}{default}{{{{ end }}}}" in template
    assert "{{ if and $last .Thinking }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}" in template


# vLLM


def command_of(folder: Path) -> list[str]:
    text = (folder / "README.md").read_text()
    return shlex.split(next(line for line in text.splitlines() if line.startswith("vllm serve")))


def test_vllm_gets_the_merged_model(sft_dir, merged, tmp_path, capsys):
    out = export(str(sft_dir), tmp_path / "out", "vllm")
    assert weights_hash(out) == weights_hash(merged("sft_dir"))
    assert command_of(out) == shlex.split("vllm serve . --served-model-name out --dtype bfloat16 --max-model-len 256")
    printed = capsys.readouterr().out
    assert f"vllm serve {out} --served-model-name out" in printed and f"export: done, in {out}" in printed
    assert "exporting" not in printed  # the staging folder is internal
    readme = (out / "README.md").read_text()
    assert readme.startswith("---\n") and readme.count("## Serve with vLLM") == 1
    assert "chat/completions" in readme
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert os.listdir(tmp_path) == ["out"]


def test_vllm_gets_a_full_model_as_it_is(base_dir, tmp_path, capsys):
    (tmp_path / ".out.exporting" / "inputs").mkdir(parents=True)  # of an export that was killed
    out = export(str(base_dir), tmp_path / "out", "vllm", dtype="f16")
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()}
    assert os.listdir(tmp_path) == ["out"]
    assert export(str(base_dir), out, "vllm", dtype="f16") == out
    assert capsys.readouterr().out.endswith(f"export: already done in {out}\n")
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()} == before
    with pytest.raises(HfkitError, match="is not empty"):
        export(str(base_dir), out, "vllm")
    assert weights_hash(out) == weights_hash(base_dir)
    assert command_of(out)[3:] == ["--served-model-name", "out", "--dtype", "float16", "--max-model-len", "256"]
    assert not [*out.glob("checkpoint-*"), *out.glob("metrics.jsonl")]


def test_vllm_gets_an_adapter_and_its_base(sft_dir, base_dir, tmp_path):
    out = export(str(sft_dir), tmp_path / "out", "vllm", adapter=True)
    assert weights_hash(out) == weights_hash(sft_dir)
    assert not (out / "model.safetensors").exists()
    lora = "--enable-lora --lora-modules out=. --max-lora-rank 8 --generation-config . "
    options = "--chat-template chat_template.jinja --dtype float32 --max-model-len 256"
    assert command_of(out) == ["vllm", "serve", str(base_dir.absolute()), *shlex.split(lora + options)]
    assert (out / "chat_template.jinja").read_text() == CHAT_TEMPLATE.read_text()


@pytest.mark.slow
def test_vllm_takes_base_and_revision_from_the_hub(hub, base_dir, run_stage, tmp_path):
    name = hub("b" * 40, base_dir)
    adapter = run_stage("sft", tmp_path / "sft", model_name_or_path=name, max_steps=1)
    out = export(str(adapter), tmp_path / "out", "vllm", adapter=True)
    assert command_of(out)[:5] == ["vllm", "serve", name, "--revision", "b" * 40]


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"use_dora": True}, "use_dora: True: remove --adapter"),
        ({"r": 1024}, "r: 1024: remove --adapter"),
        ({"bias": "all"}, "bias: all: remove --adapter"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa: remove --adapter"),
        ({"lora_bias": True}, "lora_bias: True: remove --adapter"),
        ({"init_lora_weights": "corda"}, r"\(init_lora_weights: corda\), in a way .* cannot repeat: convert it"),
        ({"r": None, "bias": None}, "sets r, bias to null, which PEFT cannot open"),
        ({"peft_type": "IA3"}, "is a IA3 adapter: vLLM serves only LORA"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_refused(sft_dir, copy, tmp_path, change, reported):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", **change)
    with pytest.raises(HfkitError, match=reported):
        export(str(folder), tmp_path / "out", "vllm", adapter=True)
    assert not (tmp_path / "out").exists()


# What is refused, before any weight is read


def test_all_problems_of_the_arguments_are_reported(sft_dir, tmp_path, capsys):
    out = str(tmp_path / "model.gguf")
    assert main(["export", str(sft_dir), out, "--format", "tflite", "--dtype", "int3", "--adapter"]) == 2
    reported = capsys.readouterr().err
    for problem in ("format: 'tflite'", "dtype: 'int3'", "adapter: True", "out: "):
        assert f"\n  {problem}" in reported
    with pytest.raises(ConfigError, match=r"converter: 'llama\.cpp' -> --format vllm converts nothing"):
        export(str(sft_dir), tmp_path / "out", "vllm", converter="llama.cpp")
    with pytest.raises(ConfigError, match="'q8_0' -> expected one of: f32, f16, bf16"):
        export(str(sft_dir), tmp_path / "out", "vllm", dtype="q8_0")


def test_without_a_converter_it_says_what_to_install(sft_dir, tmp_path, no_weights, no_converter):
    for format in ("gguf", "ollama"):
        with pytest.raises(ConfigError, match=f"converter: missing -> install llama.cpp with {SCRIPT} on the PATH"):
            export(str(sft_dir), tmp_path / "out", format)
    with pytest.raises(ConfigError, match=r"name llama\.cpp's folder"):
        export(str(sft_dir), tmp_path / "out", "gguf", converter=str(tmp_path))


def test_what_the_converter_does_not_know_is_refused(sft_dir, tmp_path, no_weights, failing_converter):
    with pytest.raises(HfkitError, match=r"cannot convert .*: Model X is not supported: a newer llama.cpp may"):
        export(str(sft_dir), tmp_path / "out", "gguf", converter=str(failing_converter))
    assert [*tmp_path.iterdir()] == [failing_converter]


def test_a_template_without_a_modelfile_is_refused(sft_dir, copy, tmp_path, no_weights, failing_converter):
    folder = copy(sft_dir)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    with pytest.raises(HfkitError, match="does more than write text around messages"):
        export(str(folder), tmp_path / "out", "ollama", converter=str(failing_converter))


def test_a_full_model_is_refused_as_an_adapter(base_dir, tmp_path, no_weights):
    with pytest.raises(HfkitError, match="is a full model: remove --adapter"):
        export(str(base_dir), tmp_path / "out", "vllm", adapter=True)
    assert os.listdir(tmp_path) == []


def test_a_reward_model_is_refused(sft_dir, copy, tmp_path, no_weights):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", task_type="SEQ_CLS")
    with pytest.raises(HfkitError, match="is a reward model: only language models are exported"):
        export(str(folder), tmp_path / "out", "vllm")


def test_a_model_that_is_not_whole_is_refused(sft_dir, base_dir, copy, tmp_path, no_weights, failing_converter):
    adapter, model = copy(sft_dir), copy(base_dir)
    edit(adapter / "adapter_config.json", base_model_name_or_path="/gone/model")
    (model / "model.safetensors").unlink()
    for folder, reported in ((adapter, "--base PATH"), (model, "has no weights")):
        with pytest.raises(HfkitError, match=reported):
            export(str(folder), tmp_path / "out", "gguf", converter=str(failing_converter))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(sft_dir, tmp_path, no_weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(HfkitError, match="is not empty"):
        export(str(sft_dir), tmp_path / "out", "vllm")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["mine"]
