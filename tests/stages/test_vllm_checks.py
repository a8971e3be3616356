"""What `rollout_engine: vllm` lacks is reported before anything is loaded: vLLM, a GPU, a server and what it serves."""

import json
import re
import shutil

import forks
import pytest
import trl
from packaging.version import Version

from hfkit.core.errors import ConfigError
from hfkit.stages.read_configs import read_configs

URL = "vllm_server_base_url"
SERVER = {"rollout_engine": "vllm", "vllm_mode": "server"}


def problems_of_config(config_of, folder, **changes) -> dict[str, str]:
    """The remedy by the key of each problem."""
    with pytest.raises(ConfigError) as error:
        config_of("ppo", folder, **changes)
    return {problem.key: problem.remedy for problem in error.value.problems}


def test_vllm_that_is_not_installed(config_of, tmp_path):
    found = problems_of_config(config_of, tmp_path, rollout_engine="vllm")
    assert [*found] == ["rollout_engine"]
    assert "pip install 'hfkit[vllm]'" in found["rollout_engine"]


def test_vllm_that_is_broken(config_of, monkeypatch, tmp_path):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = problems_of_config(config_of, tmp_path / "out", rollout_engine="vllm")
    assert "cannot be imported: ImportError: undefined symbol" in found["rollout_engine"]


def test_a_machine_without_a_gpu(config_of, vllm_double, monkeypatch, tmp_path):
    import vllm.platforms

    monkeypatch.setattr(vllm.platforms, "current_platform", type("Cpu", (), {"is_cuda_alike": lambda self: False})())
    for mode in ("server", "colocate"):
        found = problems_of_config(config_of, tmp_path, rollout_engine="vllm", vllm_mode=mode)
        assert [*found] == ["rollout_engine"] and "needs a GPU" in found["rollout_engine"]


def test_a_vllm_that_is_too_old(config_of, vllm_double, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_DOUBLE_RELEASE", "0.25.1")
    found = problems_of_config(config_of, tmp_path, rollout_engine="vllm")
    assert [*found] == ["rollout_engine"] and "vLLM 0.25.1 is installed, and 0.26 or newer is" in found[
        "rollout_engine"
    ]


def test_which_vllm_the_installed_trl_sends_weights_to(config_of, vllm_double, free_port, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_DOUBLE_RELEASE", "0.33.0")
    url = f"http://127.0.0.1:{free_port()}"
    found = problems_of_config(config_of, tmp_path, **SERVER, vllm_server_base_url=url)
    if Version(trl.__version__) < Version("1.13"):
        assert [*found] == ["rollout_engine"]
        assert f"TRL {trl.__version__} cannot send weights to vLLM 0.33.0" in found["rollout_engine"]
        assert "needs TRL 1.13 or newer" in found["rollout_engine"]
    else:
        assert [*found] == [URL] and "no server listens" in found[URL]
    assert config_of("ppo", tmp_path, rollout_engine="vllm").vllm_mode == "colocate"


@pytest.mark.parametrize("release", ["dev", "0.1.dev20+gabc"])
def test_a_build_of_vllm_from_source_is_accepted(config_of, vllm_double, monkeypatch, tmp_path, release):
    monkeypatch.setenv("VLLM_DOUBLE_RELEASE", release)
    assert config_of("ppo", tmp_path, rollout_engine="vllm").rollout_engine == "vllm"


@pytest.mark.parametrize("architecture", ["Olmo2ForCausalLM", "OwnForCausalLM"])
def test_a_class_that_vllm_would_change_for_the_whole_process(config_of, vllm_double, base_dir, tmp_path, architecture):
    base = shutil.copytree(base_dir, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "architectures": [architecture]}))
    found = problems_of_config(config_of, tmp_path, rollout_engine="vllm", model_name_or_path=str(base))
    assert [*found] == ["rollout_engine"]
    assert architecture in found["rollout_engine"] and "vllm_mode: server" in found["rollout_engine"]


def test_keys_without_effect(config_of, vllm_double, tmp_path):
    keys = {"vllm_mode": "server", URL: "http://127.0.0.1:1", "vllm_server_timeout": 1.0, "vllm_group_port": 1}
    found = problems_of_config(config_of, tmp_path, **keys)
    assert found == dict.fromkeys(keys, "has no effect without rollout_engine: vllm")
    found = problems_of_config(config_of, tmp_path, rollout_engine="vllm", vllm_server_timeout=1.0)
    assert found == {"vllm_server_timeout": "has no effect without vllm_mode: server"}
    share = {"vllm_gpu_memory_utilization": 0.5}
    assert problems_of_config(config_of, tmp_path, **share) == dict.fromkeys(
        share, "has no effect without rollout_engine: vllm"
    )
    assert config_of("ppo", tmp_path, rollout_engine="vllm", **share).vllm_gpu_memory_utilization == 0.5


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"merge_in_rollouts": False}, "merge_in_rollouts", "with the adapter merged"),
        ({"load_in_8bit": True}, "rollout_engine", "8-bit"),
        ({"use_dora": True, "model_name_or_path": "base"}, "rollout_engine", "DoRA"),
        ({"use_peft": False}, "rollout_engine", "hfkit merge"),
        ({"vllm_gpu_memory_utilization": 1.5}, "vllm_gpu_memory_utilization", "below 1"),
    ],
    ids=str,
)
def test_what_vllm_cannot_take_over(config_of, vllm_double, base_dir, tmp_path, changes, key, words):
    if changes.get("model_name_or_path"):
        changes = {**changes, "model_name_or_path": str(base_dir)}
    found = problems_of_config(config_of, tmp_path, rollout_engine="vllm", **changes)
    assert [*found] == [key] and words in found[key]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((URL, url) for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://u:p@127.0.0.1", "http://a:b")),
        *(("vllm_server_timeout", seconds) for seconds in (0.0, -1.0, float("inf"))),
        *(("vllm_group_port", port) for port in (0, 65536)),
    ],
)
def test_values_that_are_none(config_of, vllm_double, free_port, tmp_path, key, value):
    given = {**SERVER, URL: f"http://127.0.0.1:{free_port()}", key: value}
    found = problems_of_config(config_of, tmp_path, **given)
    assert key in found and "u:p" not in found[key]


def test_nobody_listens(config_of, vllm_double, free_port, tmp_path, base_dir):
    url = f"http://127.0.0.1:{free_port()}"
    found = problems_of_config(config_of, tmp_path, **SERVER, vllm_server_base_url=url)
    assert [*found] == [URL]
    assert (
        "no server listens" in found[URL]
        and f"vllm serve {base_dir} --dtype float32 --weight-transfer-config" in found[URL]
    )


UNFIT = [
    ({"name": "someone/else"}, "it serves someone/else, but the policy's base is "),
    ({"version": "0.28.0"}, "it runs vLLM 0.28.0, but 0.27.1 is installed"),
    ({"version": "nightly"}, "does not answer like a vLLM server"),
    ({"dev_mode": False}, "404 Client Error.*start it with VLLM_SERVER_DEV_MODE=1"),
    ({"transfer": False}, "no weight_transfer_config.*and --weight-transfer-config"),
    ({"dtype": "bfloat16"}, "it computes in bfloat16, .* --dtype float32 .*, or set bf16: true"),
    ({"context": 39}, "--max-model-len 40"),
    ({"context": "endless"}, "does not answer like a vLLM server"),
    ({"name": "x" * 10_000}, r"it serves x{300}\.\.\., but"),
    ({"dtype": "float16"}, "it computes in float16"),
]


@pytest.mark.slow
def test_whether_a_server_fits(config_of, serve_vllm, base_dir, tmp_path):
    server = serve_vllm(base_dir)
    for settings, words in UNFIT:
        server.change(**settings)
        found = problems_of_config(config_of, tmp_path, **SERVER, vllm_server_base_url=server.url)
        assert [*found] == [URL] and re.search(words, found[URL])
    server.change(dtype="bfloat16")
    config_of("ppo", tmp_path, **SERVER, vllm_server_base_url=server.url, bf16=True)
    server.change(name=f"{base_dir}/../{base_dir.name}", version="0.27.1+cu130", context=40)
    assert config_of("ppo", tmp_path, **SERVER, vllm_server_base_url=server.url).vllm_server_base_url == server.url


def test_a_plan_needs_no_server(tmp_path, base_dir, data):
    (tmp_path / "ppo.yaml").write_text(
        f"model_name_or_path: {base_dir}\nreward_functions: [reward_functions:length]\nuse_peft: true\n"
        f"datasets: [{{path: {data}/prompts.jsonl}}]\nrollout_engine: vllm\nvllm_mode: server\n"
        "max_prompt_length: 32\nresponse_length: 8\n"
    )
    assert read_configs(str(tmp_path / "ppo.yaml"), "ppo", None, [])["ppo"].rollout_engine == "vllm"


@pytest.mark.slow
def test_another_engine_does_not_import_vllm():
    code = "import sys, hfkit.stages.ppo, hfkit.stages.checks.vllm; print('trl.generation' in sys.modules)"
    ran = forks.run(code, level=forks.FEW)  # the servers above it have imported TRL
    assert ran.stdout.strip() == "False", ran.stderr
