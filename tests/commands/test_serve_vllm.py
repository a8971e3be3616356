"""`hfkit serve` with vLLM, in whose place a small program answers."""

import json
import shutil
import sys
from pathlib import Path

import psutil
import pytest
from serve_process import ASKED, read_rows

from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.serve.backends import Generation
from hfkit.commands.serve.requests import Request
from hfkit.commands.serve.vllm import VLLMBackend, chosen_backend, find_vllm
from hfkit.core.errors import HfkitError
from hfkit.records.record import read_record

VLLM = """#!{python} -S
import http.server, json, socketserver, subprocess, sys
words = sys.argv[1:]
with open("{engine}", "w") as file:
    file.write(str(subprocess.Popen(["sleep", "600"]).pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("{seen}", "a") as file:
            file.write(json.dumps([words, body]) + "\\n")
        self.send_response(200)
        self.end_headers()
        for token in json.load(open("{tokens}")):
            piece = {{"choices": [{{"text": "", "token_ids": [token], "finish_reason": None}}]}}
            self.wfile.write(b"data: " + json.dumps(piece).encode() + b"\\n\\n")
        self.wfile.write(b"data: [DONE]\\n\\n")
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def get_request(self):
        return super().get_request()[0], ("local", 0)
Server(words[words.index("--uds") + 1], Handler).serve_forever()
"""


@pytest.fixture
def vllm_program(tmp_path, monkeypatch):
    """A program `vllm` that answers with the tokens of a file, and writes its arguments and requests to another."""
    program = tmp_path / "vllm"
    files = {name: tmp_path / name for name in ("seen", "tokens", "engine")}
    program.write_text(VLLM.format(python=sys.executable, **files))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_vllm() == str(program)
    return tmp_path


@pytest.mark.slow
def test_vllm_gets_token_ids_and_the_settings_of_training(vllm_program, ppo_dir, sft_dir):
    paths = {"ppo": str(ppo_dir), "sft": str(sft_dir)}
    assert chosen_backend("vllm", paths) == "vllm"
    backend, pieces = VLLMBackend(paths, LoadedModels()), []
    model = backend.models["ppo"]
    try:
        reply = [*model.tokenizer(" Ann likes red.").input_ids, model.tokenizer.eos_token_id]
        (vllm_program / "tokens").write_text(json.dumps(reply))
        request = Request(model="ppo", prompt=ASKED, seed=3, temperature=0.5)
        made = backend.generate(Generation(model, [5, 6], request, 9, pieces.append, lambda: False))
    finally:
        backend.close()
    assert "".join(pieces) == " Ann likes red." and (made.tokens, made.is_ended) == (len(reply), True)
    [(words, body)] = read_rows(vllm_program / "seen")
    assert (body["model"], body["prompt"], body["max_tokens"], body["seed"]) == ("ppo", [5, 6], 9, 3)
    assert body["stop_token_ids"] == model.stop_token_ids and body["top_k"] == 0
    at = words.index("--lora-modules")
    assert words[at + 1 : at + 3] == [f"ppo={ppo_dir}", f"sft={sft_dir}"]
    assert words[words.index("--max-model-len") + 1] == "256" and "--trust-remote-code" not in words
    assert backend.process.returncode is not None and not Path(backend.socket).exists()
    assert not psutil.pid_exists(int((vllm_program / "engine").read_text()))  # vLLM's engine, a child of its server
    with pytest.raises(HfkitError, match="vLLM ended with status"):
        backend.require_alive()


def test_vllm_serves_one_base(vllm_program, toolbox_dir, endless_dir):
    paths = {"toolbox": str(toolbox_dir), "endless": str(endless_dir)}
    with pytest.raises(HfkitError, match="vLLM serves one base"):
        chosen_backend("vllm", paths)
    assert chosen_backend(None, paths) == "transformers"  # without a GPU


@pytest.mark.parametrize(("release", "backend"), [("0.27.1", "vllm"), ("0.33.0", None)])
def test_a_base_in_4_bits_is_served_by_a_vllm_with_bitsandbytes(
    vllm_program, sft_dir, tmp_path, monkeypatch, release, backend
):
    packages, folder = tmp_path / "packages" / f"vllm-{release}.dist-info", tmp_path / "qlora"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    monkeypatch.syspath_prepend(str(packages.parent))
    shutil.copytree(sft_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    record = read_record(folder)
    record["config"] |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    (folder / "hfkit.json").write_text(json.dumps(record))
    if backend:
        assert chosen_backend("vllm", {"model": str(folder)}) == backend
        return
    with pytest.raises(HfkitError, match=rf"vLLM {release} cannot serve a base in 4 bits .* --backend transformers"):
        chosen_backend("vllm", {"model": str(folder)})
