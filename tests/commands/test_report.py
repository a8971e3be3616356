"""`hfkit report`: one page with everything in it, of whole pipelines and half ones, whatever models wrote."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from merging import edit
from pipelines import STAGES
from quick import slow

from hfkit.cli import main
from hfkit.commands.report.figure_writer import FigureWriter
from hfkit.commands.report.formatting import format_number
from hfkit.commands.report.gather import gather
from hfkit.commands.report.plots import overoptimization_figures
from hfkit.config import registry
from hfkit.core.files import write_json
from hfkit.records.record import read_record, weights_hash
from hfkit.training.plot_style import PALETTE, SERIES
from hfkit.training.plots import Panel

ARENA = {
    "models": [
        {"name": "base", "rating": 900, "low": 880, "high": 920},
        {"name": "<b>$t$", "rating": 1000, "low": 980, "high": 1020},
    ],
    "pairs": [{"a": "base", "b": "<b>$t$", "wins_a": 2, "wins_b": 7, "ties": 1}],
    "judge": {"kind": "reward", "name": "the judge", "warning": "It is what PPO was trained on."},
    "bias": {"longer_wins": 0.5},
    "diversity": [{"model": "<b>$t$", "temperature": t, "entropy": t, "self_bleu": None} for t in (1.0, 0.5)],
    "samples": [{"prompt": "Who <i>is</i> it?", "replies": {"base": "<script>alert(1)</script>", "tuned": ""}}],
}


class Page(HTMLParser):
    """What a test looks at: tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path) -> Page:
    assert main(["report", str(folder)]) == 0
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, runs, ppo_dir) -> Path:
    """A copy of the five stages, as of a folder that came from another machine."""
    folder = tmp_path_factory.mktemp("copied") / "pipeline"
    for stage in STAGES:  # other tests' runs are in the same folder
        shutil.copytree(runs / stage, folder / stage, ignore=shutil.ignore_patterns("checkpoint-*"))
    return folder


@pytest.fixture(scope="module")
def page(pipeline) -> Page:
    return report(pipeline)


@pytest.fixture
def part(pipeline, tmp_path):
    """part(*names) -> a folder with copies of some of the stages."""

    def copy(*names: str) -> Path:
        for name in names:
            shutil.copytree(pipeline / name, tmp_path / name)
        return tmp_path

    return copy


def test_a_page_tells_of_every_stage(page):
    for title in ("Tokenizer", "Pretraining", "SFT", "Reward model", "PPO"):
        assert f"{title}: done" in page.text
    labels = " ".join(svg["aria-label"] for svg in page.all("svg"))
    for curve in ("Pretraining: Loss", "SFT: Loss", "Reward model: Accuracy", "PPO: Reward", "PPO: KL", "PPO: Entropy"):
        assert f"{curve}" in labels
    assert "Pretraining from Tokenizer; SFT from Pretraining; Reward model from SFT; PPO from SFT and" in labels
    assert "docs.jsonl" in page.text and "held out from train" in page.text
    assert "before PPO" in page.text and "after PPO" in page.text


@pytest.mark.parametrize(("line", "is_fine"), [slow('"a\u2028b"', True), ('"a', False)])
def test_samples_are_lines_of_json(part, capsys, line, is_fine):
    """A response may have marks that end a line for some, and not for JSON; a file that was cut off is reported."""
    folder = part("sft", "ppo")
    sample = f'{{"prompt": "Who?", "before": {line}, "after": "Ann.", "reward_before": 0, "reward_after": 1}}\n'
    (folder / "ppo" / "samples.jsonl").write_text(sample)
    assert main(["report", str(folder)]) == (0 if is_fine else 1)
    assert ("not as hfkit writes it" in capsys.readouterr().err) is not is_fine


def test_a_page_tells_of_every_warning(page, pipeline):
    warned = read_record(pipeline / "ppo")["warnings"]
    assert warned and all(warning in page.text for warning in warned)


def test_a_page_is_one_file_that_needs_nothing(page, pipeline):
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    html = (pipeline / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|@import|https?:", html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {
        reference
        for _, attributes in page.tags
        for reference in re.findall(r"#([\w-]+)", str(attributes.get("clip-path")))
    }
    wanted |= {
        attributes[key][1:] for _, attributes in page.tags for key in ("href", "xlink:href") if key in attributes
    }
    assert wanted and wanted <= set(ids)


def test_a_page_can_be_read_by_everyone(page):
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in page.all("svg"))
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1 and max(b - a for a, b in pairwise(headings)) == 1


@pytest.mark.parametrize(("theme", "ground"), [*product((0, 1), ("paper", "panel"))])
def test_the_contrast_is_enough(theme, ground):
    def luminance(name: str) -> float:
        """Relative luminance of WCAG 2.2."""
        parts = [int(PALETTE[name][theme][index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for name in {"ink", "muted", "bad", *SERIES}:
        light, dark = sorted((luminance(name), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_every_plot_is_a_png_too(page, pipeline):
    plots = sorted(path.name for path in (pipeline / "report").iterdir())
    assert len(plots) == len(page.all("svg"))
    assert all((pipeline / "report" / name).read_bytes().startswith(b"\x89PNG") for name in plots)
    assert {"lineage.png", "ppo-reward.png", "sft-loss.png"} <= {*plots}


@pytest.mark.slow
def test_an_arena_is_shown_and_what_models_wrote_is_text(part):
    folder = part("sft")
    (folder / "arena").mkdir()
    write_json(folder / "arena" / "arena.json", ARENA)
    page = report(folder)
    assert "<script>alert(1)</script>" in page.text and "Who <i>is</i> it?" in page.text and "(empty)" in page.text
    assert not page.all("script") and not page.all("i") and not page.all("b")
    assert "<b>$t$ beats base on the arena rating: 1,000 (980 to 1,020) against 900 (880 to 920)" in page.text
    assert "It is what PPO was trained on." in page.text and "7 (70%)" in page.text
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert "Entropy by temperature, nats per token by temperature: <b>$t$ 0.500 at 0.5, 1.00 at 1" in labels
    assert not [label for label in labels if "self-BLEU" in label]


def test_an_evaluation_is_shown_with_its_intervals(part):
    folder = part("sft")
    metrics = {"perplexity": 2.0, "perplexity_low": 1.5, "perplexity_high": 2.5}
    write_json(folder / "sft" / "evaluation.json", {"model": "sft", "metrics": metrics, "by_model": {}})
    assert "2.00 (1.50 to 2.50)" in report(folder).text


BENCH = {
    "lm_eval": "0.4.13",
    "models": [{"name": name, "path": f"/elsewhere/{name}", "stage": name} for name in ("pretrain", "sft")],
    "results": {
        name: {
            "colours": {
                "rows": 100,
                "metrics": {
                    "acc": {"value": value, "low": value - 0.1, "high": value + 0.1, "higher_is_better": True},
                    "perplexity": {"value": 3.0, "low": None, "high": None, "higher_is_better": False},
                },
            }
        }
        for name, value in (("pretrain", 0.6), ("sft", 0.4))
    },
    "differences": [
        {
            **{"task": "colours", "metric": "acc", "before": "pretrain", "after": "sft", "difference": -0.2},
            **{"low": -0.3, "high": -0.1, "is_paired": True, "higher_is_better": True},
        }
    ],
}


@pytest.mark.slow
def test_a_bench_shows_what_alignment_cost(part):
    folder = part("pretrain", "sft")
    (folder / "bench").mkdir()
    write_json(folder / "bench" / "bench.json", BENCH)
    page = report(folder)
    assert "What alignment cost" in page.text and "100 rows per task" in page.text
    assert "colours: acc ↑" in page.text and "0.600 (0.500 to 0.700)" in page.text and "0.400 (0.300" in page.text
    assert "colours: perplexity ↓" in page.text
    note = "colours: acc falls by 0.200 (0.100 to 0.300) from Pretraining to SFT. This is a cost of the training."
    assert note in page.text
    assert "hfkit bench" not in page.text
    assert "colours, acc: Pretraining 0.600" in " ".join(svg["aria-label"] for svg in page.all("svg"))


def test_the_overview_has_a_column_per_stage(page):
    overview = page.text[page.text.index("PPO: done") : page.text.index("Responses side by side")]
    phases = ("Pretraining", "Supervised fine-tuning", "Reward modeling", "Reinforcement learning")
    at = [overview.index(phase) for phase in phases]
    assert at == sorted(at)
    for text in (
        "docs.jsonl",
        "192 documents",
        "conversations",
        "predict the next token of a text",
        "new weights → base model",
        "Pretraining → assistant",
        "SFT → reward model",
        "reward from Reward model",
        "LoRA adapter",
        "held-out accuracy",
        "held-out reward",
        "2 updates",
        "on the CPU",
    ):
        assert text in overview, text


def test_every_stage_that_trains_a_model_says_what_it_optimizes():
    for spec in registry.STAGES.values():
        assert bool(spec.objective and spec.phase) is spec.trains_a_model, spec.name


def test_stages_are_in_the_order_of_training(part):
    """SFT from the output of DPO, whose place in the registry is later."""
    folder = part("pretrain", "sft")
    record = read_record(folder / "sft")
    (start,) = record["lineage"]
    for name, stage, parent in (("dpo", "dpo", "sft"), ("a-second", "sft", "dpo")):
        lineage = [start | {"path": f"/elsewhere/{parent}", "stage": parent, "parents": []}]
        (folder / name).mkdir()
        write_json(folder / name / "hfkit.json", record | {"stage": stage, "lineage": lineage})
    assert [run.folder.name for run in gather(folder).runs] == ["pretrain", "sft", "dpo", "a-second"]


@pytest.mark.slow
def test_a_prompt_is_shown_as_turns(page, ppo_dir, part):
    """New runs have the messages; of the samples of earlier versions, the page shows the text."""
    rows = [json.loads(line) for line in (ppo_dir / "samples.jsonl").read_text().splitlines()]
    assert rows[0]["messages"] == [{"role": "user", "content": "What does Ann like?"}]
    raw = rows[0]["prompt"]
    assert rows[0]["messages"][0]["content"] in page.text and raw not in page.text
    folder = part("sft", "ppo")
    old = [{key: value for key, value in row.items() if key != "messages"} for row in rows]
    (folder / "ppo" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert raw in report(folder).text


@pytest.mark.slow
def test_missing_results_come_with_their_commands(page, pipeline):
    start = f"hfkit evaluate {pipeline}/ppo --against {pipeline}/sft --reward_model {pipeline}/reward"
    assert start in page.text
    assert f"hfkit arena {pipeline}/sft {pipeline}/ppo --prompts my-prompts.jsonl --judge human" in page.text
    assert f"hfkit bench {pipeline} --tasks arc_easy hellaswag" in page.text
    of_run = report(pipeline / "ppo").text
    assert re.search(
        rf"hfkit bench \S+/pretrain \S+/sft {pipeline}/ppo --tasks .* --output_dir {pipeline}/ppo/bench", of_run
    )


@pytest.mark.parametrize("steps", [[1], [5, 5], [1, 2], [10, 20, 30], [25]])
def test_ticks_are_at_whole_updates(steps):
    figure = Figure()
    axes = figure.subplots()
    Panel("Reward", "mean score", [("training", [(step, 0.5) for step in steps])]).draw(axes)
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == round(tick) for tick in ticks)


def test_half_a_pipeline_has_half_a_report(part):
    page = report(part("tokenizer", "pretrain"))
    assert "No warnings." in page.text
    assert "Pretraining: done" in page.text and "PPO:" not in page.text and "Responses side by side" not in page.text


@pytest.mark.slow
def test_a_stage_alone_comes_with_those_before_it(part):
    page = report(part("reward") / "reward")
    for title in ("Pretraining", "SFT", "Reward model"):
        assert f"{title}: done" in page.text


def test_a_failed_stage_says_so(part):
    folder = part("pretrain", "sft")
    record = read_record(folder / "sft")
    write_json(
        folder / "sft" / "hfkit.json", record | {"status": "failed", "error": "Oops", "warnings": ["step 3: no good"]}
    )
    edit(folder / "pretrain" / "hfkit.json", stopped="KL 30 exceeds max_kl")
    page = report(folder)
    assert page.text.count("Pretraining: stopped early") == 1 and "KL 30 exceeds max_kl" in page.text
    assert page.text.count("SFT: failed") == 2, "in the list of stages and in the overview"
    assert "the run failed (Oops)" in page.text and "step 3: no good" in page.text
    assert "Warnings: 3" in page.text


@pytest.mark.slow
def test_a_score_without_weight_is_watched_and_changes_nothing(run_stage, ppo_dir, tmp_path):
    watched = {"reward_functions": ["reward_functions:length"], "reward_weights": [1.0, 0.0]}
    folder = run_stage("ppo", tmp_path / "ppo", test_split_size=4, **watched)
    assert weights_hash(folder) == weights_hash(ppo_dir)
    (figure,) = overoptimization_figures(FigureWriter(tmp_path), gather(folder))
    assert 'aria-label="PPO: length score against KL: as KL grows to' in figure.svg


@pytest.mark.slow
def test_without_an_evaluation_the_record_gives_the_verdict(run_stage, tmp_path):
    folder = run_stage("ppo", tmp_path / "runs" / "ppo", test_split_size=4)
    metrics = read_record(folder)["metrics"]
    page = report(folder.parent)
    before, after = (format_number(metrics[f"eval_reward_{name}"]) for name in ("sft", "ppo"))
    assert "PPO: the mean reward on held-out prompts" in page.text and f"from {before} to {after}" in page.text
    assert f"hfkit evaluate {folder} --against " in page.text
