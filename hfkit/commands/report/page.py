"""The page of a report: one HTML file with everything in it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfkit.commands.report import figures, tables
from hfkit.commands.report.figure_writer import PALETTE, FigureWriter
from hfkit.commands.report.gather import Gathered, samples_of

TEMPLATES = Path(__file__).parent
SHOWN_PROMPTS = 6  # prompts whose replies are shown


def render(gathered: Gathered, studio: FigureWriter) -> str:
    """The page as HTML; whatever a user or a model wrote is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    training = figures.training_figures(studio, gathered)
    versions = gathered.stages[-1].record.get("environment", {}).get("versions", {})
    return environment.get_template("report.html.jinja").render(
        title=gathered.folder.resolve().name,
        palette=PALETTE,
        facts=tables.facts_of(gathered),
        verdicts=tables.verdicts_of(gathered),
        models=tables.model_tables(gathered),
        comparison=figures.summary_figures(studio, gathered) + figures.arena_figures(studio, gathered),
        pairs=tables.pair_tables(gathered),
        samples=samples_of(gathered)[:SHOWN_PROMPTS],
        overoptimization=figures.overoptimization_figures(studio, gathered),
        training={name: drawn for name, drawn in training.items() if drawn},
        lineage=figures.lineage_figure(studio, gathered),
        data=tables.data_table(gathered),
        cost=tables.cost_table(gathered),
        stages=gathered.stages,
        results={stage.name: tables.results_of(stage) for stage in gathered.stages},
        states=tables.STATUS_TITLES,
        versions={name: version for name, version in versions.items() if version},
    )
