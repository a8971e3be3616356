"""python tests/recipe_table.py

Plans every recipe for its GPU and writes the table of `docs/guides/recipes.md`.
"""

import re
import sys
import tempfile
from pathlib import Path

from recipe_models import MODELS, write_model
from rich.filesize import decimal

from hfkit.commands.plan.read_stages import read_stages
from hfkit.training.memory.checkpointing import decide_checkpointing
from hfkit.training.memory.device import gpu_of
from hfkit.training.memory.peak import plan_memory

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "recipes.md"
HARDWARE = {"qlora": ("QLoRA, 24 GB", 24), "lora": ("LoRA, 80 GB", 80)}
STAGES = ("sft", "reward", "ppo")
TABLE = re.compile(r"(\| model \|.*\n)(\|.*\n)+")


def recipe_of(name: str, method: str) -> Path:
    """Return the file of a recipe."""
    return ROOT / "configs" / "recipes" / f"{name}-{method}.yaml"


def peaks(recipe: Path, model: str, gigabytes: float) -> dict[str, int]:
    """Return the peak of each stage of a recipe on a GPU, in bytes, given only the config of the model."""
    device = gpu_of(int(gigabytes * 1e9))
    stages = read_stages(str(recipe), None, None, ["--sft.model_name_or_path", model], device)
    decided = [decide_checkpointing(stage, device)[0] for stage in stages]
    return {stage.spec.name: plan_memory(stage, device).peak for stage in decided}


def row_of(name: str, planned: dict[str, dict[str, int]]) -> str:
    """Return the row of a model, from its peaks by method."""
    cells = [f"planned {decimal(planned[method][stage])}" for method in HARDWARE for stage in STAGES]
    return "| " + " | ".join([MODELS[name].hub_id, *cells]) + " |"


def header() -> str:
    """Return the header of the table and the line below it."""
    titles = [f"{stage}: {title}" for title, _ in HARDWARE.values() for stage in STAGES]
    return f"| model | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}"


def main() -> None:
    """Plan all recipes and write the table."""
    rows = [header()]
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_model(Path(folder), model)
            planned = {method: peaks(recipe_of(name, method), path, size) for method, (_, size) in HARDWARE.items()}
        rows.append(row_of(name, planned))
        print(rows[-1], file=sys.stderr)
    table = "\n".join(rows) + "\n"
    text = PAGE.read_text(encoding="utf-8")
    text = TABLE.sub(lambda _: table, text) if TABLE.search(text) else f"{text.rstrip()}\n\n{table}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
