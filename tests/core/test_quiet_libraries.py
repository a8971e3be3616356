"""Libraries print no warnings, unless HFKIT_DEBUG=1 asks for them."""

import os
from importlib.util import find_spec

import pytest
import torch
from forks import FEW, run

CODE = """
from hfkit.core.console import quiet_libraries
quiet_libraries()
from deepspeed.accelerator import get_accelerator
get_accelerator()
"""


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="DeepSpeed warns that it finds no GPU")
@pytest.mark.parametrize("debug", ["0", "1"])
def test_deepspeed_does_not_warn_that_there_is_no_gpu(debug):
    env = {**os.environ, "HFKIT_DEBUG": debug}
    env.pop("DS_ACCELERATOR", None)
    ran = run(CODE, env=env, level=FEW)
    assert ran.returncode == 0, ran.stderr
    assert ("Setting accelerator to CPU" in ran.stdout + ran.stderr) == (debug == "1")


@pytest.mark.skipif(torch.version.cuda is None, reason="a build of torch for the CPU never warns")
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch warns that it finds no GPU")
@pytest.mark.parametrize("debug", ["0", "1"])
def test_torch_does_not_warn_of_a_cuda_compiler_without_a_gpu(debug, tmp_path):
    compiler = tmp_path / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    path = f"{compiler.parent}{os.pathsep}{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    code = "from hfkit.core.console import quiet_libraries\nquiet_libraries()\nimport torch.utils.cpp_extension"
    ran = run(code, env={**env, "PATH": path, "HFKIT_DEBUG": debug}, level=FEW)
    assert ran.returncode == 0, ran.stderr
    assert ("No CUDA runtime" in ran.stdout + ran.stderr) == (debug == "1")
