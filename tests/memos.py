"""Remembers what tiny runs repeat: without it, a third of their time goes into plots, packages and templates."""

import importlib.metadata
import shutil
from functools import cache
from pathlib import Path

import jinja2
import pytest

from hfkit.records.metrics_file import read_metrics
from hfkit.training import run
from hfkit.training.plots import panels_of, plot_metrics


@pytest.fixture(scope="session", autouse=True)
def remembered(tmp_path_factory):
    """Parse the metadata of a package once, compile a template of Jinja's shared environment once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "metadata", cache(importlib.metadata.metadata))
        patch.setattr(jinja2.Environment, "compile", compile_once(jinja2.Environment.compile))
        patch.setattr(run, "plot_metrics", plot_once(tmp_path_factory.mktemp("plots")))
        yield


def compile_once(compile):
    """Return Jinja's `compile` that remembers the templates of its shared environment, such as PEFT's model card."""
    remembered = cache(compile)
    return lambda self, *args, **options: (remembered if self.shared else compile)(self, *args, **options)


def plot_once(drawn: Path):
    """Return `plot_metrics` that draws one plot of each set of curves into `drawn`, and copies it for other runs."""
    names = {}

    def plot(folder: Path, stage: str | None = None) -> Path | None:
        panels = panels_of(read_metrics(folder), stage)
        curves = [stage, *((panel.title, [legend for legend, _ in panel.series]) for panel in panels)]
        known = drawn / f"{names.setdefault(str(curves), len(names))}.png"
        if known.exists():
            return Path(shutil.copyfile(known, folder / "loss.png"))
        path = plot_metrics(folder, stage)
        if path is not None:
            shutil.copyfile(path, known)
        return path

    return plot
