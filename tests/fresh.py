"""A process in which hfkit is not installed: what it opens is an ordinary folder."""

import subprocess
import sys
from pathlib import Path

WITHOUT_HFKIT = """
import sys

class NoHfkit:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hfkit":
            raise ImportError("hfkit is not installed here")

sys.meta_path.insert(0, NoHfkit())
"""


def run_without_hfkit(script: str, *arguments: str, cwd: Path) -> None:
    """Runs a script in a process of its own that cannot import hfkit; it must succeed."""
    code = WITHOUT_HFKIT + script + '\nassert "hfkit" not in sys.modules\n'
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
