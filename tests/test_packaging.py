"""The installed package is complete: wheel, sdist, metadata, and the Dockerfile."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="builds need hatchling")
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from trove_classifiers import classifiers

from hfkit import __version__
from hfkit.core.shipped import shipped_folder
from hfkit.metrics.evaluate import NAMES

ROOT = Path(__file__).parents[1]
SHIPPED = ("configs", "data_cards")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    line for line in re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines() if line.strip()
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    for builder in (SdistBuilder, WheelBuilder):
        assert [*builder(str(ROOT)).build(directory=str(folder))]
    return folder


def test_the_wheel_has_all_that_the_code_reads(built):
    names = {*zipfile.ZipFile(next(built.glob("*.whl"))).namelist()}
    code = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("hfkit/**/*") if path.is_file()}
    code = {name for name in code if "__pycache__" not in name}
    assert {f"hfkit/metrics/evaluate/{name}.py" for name in NAMES} <= code <= names
    for folder in SHIPPED:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert files and {f"hfkit/{name}" for name in files} <= names
    assert not [name for name in names if name.split("/")[0] not in ("hfkit", f"hfkit-{__version__}.dist-info")]


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert {"LICENSE", "README.md", "pyproject.toml", "tests", "docs"} <= {path.name for path in folder.iterdir()}
    again = next(WheelBuilder(str(folder)).build(directory=str(tmp_path)))
    assert {*zipfile.ZipFile(again).namelist()} == {*zipfile.ZipFile(next(built.glob("*.whl"))).namelist()}


def test_the_index_accepts_the_metadata(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
        found = message_from_bytes(wheel.read(name))
        assert [one for one in wheel.namelist() if one.endswith("licenses/LICENSE")]
    assert (found["Name"], found["Version"], found["License-Expression"]) == (
        "hfkit",
        __version__,
        "Apache-2.0",
    )
    assert {*found.get_all("Classifier")} <= classifiers
    assert found.get_payload().startswith("# hfkit\n")
    assert {"dev", "export", "gpu", "kernels", "label", "liger", "serve", "tracking"} <= {
        *found.get_all("Provides-Extra")
    }


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_pinned_versions_support_every_supported_python(python):
    wrong = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        release = {"python_version": python, "python_full_version": f"{python}.99"}
        try:
            supported = metadata(pin.name)["Requires-Python"]
        except PackageNotFoundError:  # of an extra
            continue
        if (not pin.marker or pin.marker.evaluate(release)) and f"{python}.99" not in SpecifierSet(supported or ""):
            wrong.append(f"{pin}: Python {supported}")
    assert not wrong


def test_shipped_files_are_found_in_a_checkout():
    assert (shipped_folder("configs") / "quickstart" / "pipeline.yaml").is_file()
    assert (shipped_folder("data_cards") / "TEMPLATE.md").is_file()


SMOKE = """
from pathlib import Path
import hfkit
from hfkit.core.shipped import shipped_folder
from hfkit.metrics.evaluate import NAMES, load

package = Path(hfkit.__file__).parent
assert package.is_relative_to({site!r}), package
assert shipped_folder("configs").parent == shipped_folder("data_cards").parent == package
assert load(NAMES[0]).description
"""


@pytest.fixture
def installed(built, tmp_path):
    """installed(program, *words) -> the output of a program in an environment with the wheel and without a checkout.

    The dependencies are those of this environment, so that nothing is downloaded.
    """
    venv.create(tmp_path / "venv", with_pip=False)
    programs, own = tmp_path / "venv" / "bin", sysconfig.get_path("purelib")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *words: str) -> str:
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([programs / program, *words], **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(next(built.glob("*.whl")))], check=True, capture_output=True)
    site = run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "dependencies.pth").write_text(own + "\n")  # searched after hfkit's own folder
    run("python", "-c", SMOKE.format(site=site))
    return run, Path(site) / "hfkit"


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(installed, data, tmp_path):
    run, package = installed
    assert run("hfkit", "--version") == f"hfkit {__version__}\n"
    for verb in ("sft", "merge"):
        assert f"hfkit {verb}" in run("hfkit", verb, "--help")
    assert "ultrachat" in run("hfkit", "data", "cards")
    configs = package / "configs" / "quickstart"
    assert "reward: dtype: float32" in run("hfkit", "plan", str(configs / "pipeline.yaml"))
    rows, out = f'[{{"path": "{data / "docs.jsonl"}"}}]', tmp_path / "tokenizer"
    config = str(configs / "tokenizer.yaml")
    run("hfkit", "tokenizer", "--config", config, "--datasets", rows, "--output_dir", str(out), "--vocab_size", "400")
    assert (out / "chat_template.jinja").read_text() == (ROOT / "hfkit" / "stages" / "chat.jinja").read_text()


# The Dockerfile; no test builds the image


def arguments(name: str) -> list[str]:
    """Return the arguments of each instruction with a name."""
    return [line.partition(" ")[2] for line in INSTRUCTIONS if line.startswith(f"{name} ")]


def is_ignored(path: str) -> bool:
    """Return whether .dockerignore excludes a path from the build; the last matching rule decides."""
    ignored = False
    for rule in (ROOT / ".dockerignore").read_text().split("\n"):
        if rule.strip() and not rule.startswith("#") and fnmatch(path, rule.removeprefix("!")):
            ignored = not rule.startswith("!")
    return ignored


def test_the_files_that_the_image_copies_exist():
    copied = [source for line in arguments("COPY") for source in line.split()[:-1]]
    assert {"hfkit", *SHIPPED, "constraints.txt", "pyproject.toml"} <= {*copied}
    assert [source for source in copied if not (ROOT / source).exists() or is_ignored(source)] == []
    assert is_ignored("runs") and is_ignored("tests") and is_ignored(".git")


def test_the_image_has_the_pinned_versions_and_no_caches():
    installs = [line for line in arguments("RUN") if "pip install" in line]
    assert len(installs) == 2 and all("--constraint /tmp/hfkit/constraints.txt" in line for line in installs)
    assert installs[0].split()[-1] == "torch"  # in the version of constraints.txt, from the index of a build argument
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.M)
    assert any("PIP_NO_CACHE_DIR=1" in line for line in arguments("ENV"))
    assert all("rm -rf /var/lib/apt/lists" in line for line in arguments("RUN") if "apt-get" in line)


def test_the_image_runs_hfkit_as_a_plain_user():
    assert arguments("ENTRYPOINT") == ['["hfkit"]']
    assert arguments("USER") == ["hfkit"]
    order = [line.split()[0] for line in INSTRUCTIONS]
    assert order.index("USER") > max(index for index, name in enumerate(order) if name == "RUN")
    assert INSTRUCTIONS[0].startswith("ARG BASE=") and arguments("FROM") == ["${BASE}"]
    extras = {extra for line in arguments("ARG") if line.startswith("EXTRAS=") for extra in line[7:].split(",")}
    declared = re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1])
    assert extras and extras <= {*declared}
