"""Renders the page of a report as one self-contained HTML file."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfkit.commands.report import plots, tables
from hfkit.commands.report.data_table import data_table
from hfkit.commands.report.figure_writer import FigureWriter
from hfkit.commands.report.gather import RENDERED, Gathered, samples_of
from hfkit.commands.report.next_steps import next_steps
from hfkit.commands.report.overview import stage_cards
from hfkit.commands.report.rounds import rounds_table
from hfkit.training.plot_style import PALETTE

SHOWN_PROMPTS = 6


def render(gathered: Gathered, writer: FigureWriter) -> str:
    """Return the page as HTML; text by users and models is escaped."""
    layout = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, **layout)
    versions = gathered.runs[-1].record.get("environment", {}).get("versions", {})
    return environment.get_template("report.html.jinja").render(
        title=gathered.folder.resolve().name,
        palette=PALETTE,
        facts=tables.facts_of(gathered),
        cards=stage_cards(gathered),
        next_steps=next_steps(gathered),
        benches=tables.bench_tables(gathered),
        bench_figures=plots.bench_figures(writer, gathered),
        rendered=RENDERED,
        verdicts=tables.verdicts_of(gathered),
        models=tables.model_tables(gathered),
        comparison=plots.summary_figures(writer, gathered) + plots.arena_figures(writer, gathered),
        pairs=tables.pair_tables(gathered),
        rounds=rounds_table(gathered.folder),
        samples=samples_of(gathered)[:SHOWN_PROMPTS],
        overoptimization=plots.overoptimization_figures(writer, gathered),
        training=plots.training_figures(writer, gathered),
        lineage=plots.lineage_figure(writer, gathered),
        data=data_table(gathered),
        cost=tables.cost_table(gathered),
        runs=gathered.runs,
        results={run.name: tables.results_of(run) for run in gathered.runs},
        versions={name: version for name, version in versions.items() if version},
    )
