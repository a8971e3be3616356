"""A secret that is mistyped, or that a library quotes, is neither printed nor stored."""

import json

import pytest

from hfkit.commands.report.main import write_report

HF = "hf_" + "Zq7Xw" * 7
SLOW = pytest.mark.slow
WORD = "Zq7Xw-swordfish-9"
OUT = ("--output_dir", "out")
HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def yaml(tmp_path):
    """Writes a file in the folder of the commands."""

    def write(text: str, name: str = "given.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.mark.hostile("secrets")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["sft", "--hub_tokne", HF], "--hub_tokne: '***'", id="a mistyped flag"),
        pytest.param(["sft", "--hub_tokne", WORD], "--hub_tokne: '***'", id="a mistyped flag, not a token's form"),
        pytest.param(["sft", f"--hf_token={WORD}"], "--hf_token: '***'", id="a flag that does not exist"),
        pytest.param(["sft", "--wandb_api_key", HEX], "--wandb_api_key: '***'", id="a key of W&B"),
        pytest.param(["sft", "--seed", "1", f"HF_TOKEN={WORD}"], "HF_TOKEN=***", id="a variable as an argument"),
        pytest.param(["sft", "--seed", HF], "--seed: 'hf_***'", id="the value of another flag"),
        pytest.param(["sft", *OUT, "--datasets", f"https://me:{WORD}@host/a.jsonl"], "https://me:***@host", id="a URL"),
        pytest.param(
            ["sft", *OUT, "--datasets", f"/data/{HF}/rows.jsonl"], "/data/hf_***/rows.jsonl", id="a path of data"
        ),
        pytest.param(["sft", *OUT, "--model_name_or_path", HF], "hf_***", id="a model", marks=SLOW),
        pytest.param(["push", "nowhere", "me/name", "--token", WORD], "--token ***", id="a flag of a verb"),
        pytest.param(["chat", f"nowhere/{HF}/model", "--prompt", "Hi"], "hf_***", id="the model of a chat", marks=SLOW),
        pytest.param(["pull", f"{HF}/a/b", "out"], "hf_***", id="a repository"),
        pytest.param([HF], "unknown verb 'hf_***'", id="a verb"),
        pytest.param(["lineage", HF], "hf_***", id="a run", marks=SLOW),
    ],
)
def test_a_secret_on_the_command_line_is_masked(argv, message, attack):
    ran = attack(*argv)
    assert ran.status in (1, 2) and message in ran.output and "Zq7Xw" not in ran.output and HEX not in ran.output


@pytest.mark.hostile("secrets")
@pytest.mark.parametrize(
    ("verb", "text", "message"),
    [
        pytest.param("sft", f"hf_token: {WORD}", "hf_token: '***'", id="a key", marks=SLOW),
        pytest.param("sft", f"hub_tokne: {HF}", "hub_tokne: '***'", id="a mistyped key"),
        pytest.param("sft", f"model_config: [{{api_key: {WORD}}}]", "'api_key': '***'", id="a key within", marks=SLOW),
        pytest.param("sft", f"{HF}: 1", "hf_***: 1", id="a name of a key", marks=SLOW),
        pytest.param("sft", f"password: {WORD}\npassword: {WORD}", "password: '***' -> given twice", id="a key twice"),
        pytest.param("sft", f"hub_token: {HF}\n  : [", "not valid YAML", id="no YAML", marks=SLOW),
        pytest.param("sft", "seed: '-----BEGIN PRIVATE KEY-----\n  Zq7XwAAA\n  '", "PRIVATE KEY-----***", id="block"),
        pytest.param("run", f"hub_tokne: {WORD}\nstages: {{}}", "hub_tokne: '***'", id="a pipeline", marks=SLOW),
        pytest.param(
            "run", f"stages: {{sft: {{hf_token: {WORD}}}}}\noutput_dir: o", "hf_token: '***'", id="of a stage"
        ),
    ],
)
def test_a_secret_in_a_yaml_is_masked(verb, text, message, yaml, attack):
    ran = attack(verb, yaml(text))
    assert ran.status == 2 and message in ran.output and "Zq7Xw" not in ran.output


@pytest.mark.hostile("secrets")
@pytest.mark.parametrize("code", [f"raise KeyError('{HF}')", f"import {HF}", f"x = '{HF}' + 1"])
def test_a_secret_in_a_reward_function_is_masked(code, yaml, attack):
    yaml(code, "rewards.py")
    ran = attack(
        "ppo", *OUT, "--model_name_or_path", "nowhere", "--reward_functions", "rewards.py:score", "--datasets", "x"
    )
    assert ran.status == 2 and "reward function rewards.py:score" in ran.output and "Zq7Xw" not in ran.output


def test_the_folder_of_a_run_holds_no_secret(run_stage, data, tmp_path):
    folder = tmp_path / HF
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_bytes((data / "docs.jsonl").read_bytes())
    options = {"datasets": [{"path": str(rows)}], "run_name": f"password={WORD}"}
    out = run_stage("pretrain", tmp_path / "out", max_steps=1, save_steps=1, **options)
    assert run_stage("pretrain", tmp_path / "out", max_steps=1, save_steps=1, **options) == out  # found as finished
    write_report(tmp_path / "out")
    record = json.loads((out / "hfkit.json").read_text())
    assert record["config"]["run_name"] == "password=***" and "hf_***" in json.dumps(record["data"])
    written = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".pt", ".bin")]
    assert not [path.name for path in written if b"Zq7Xw" in path.read_bytes()]
