"""Computes the metrics of language models: the loss on held-out rows, and properties of their responses."""

from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.registry import spec_of
from hfkit.core.console import say, warn
from hfkit.data.splits import SplitStats
from hfkit.evaluation.diversity import reply_diversity
from hfkit.evaluation.held_out import HeldOut, labeled, load_held_out, start_of
from hfkit.evaluation.prompts import load_prompts, rows_with_prompts, sample_rows, shared_prompts
from hfkit.evaluation.replies import SUBJECT_KEYS, Reply, Sampling, Subject, have_ended, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.evaluation.text_likelihoods import text_likelihoods
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.formulas import bits_per_byte, exact_match, kl_per_reply, perplexity, self_bleu
from hfkit.models.generation import likelihoods
from hfkit.models.reward_model import load_reward
from hfkit.records.lineage import change_since
from hfkit.records.record import record_of

KEPT_SAMPLES = 5
"""Prompts whose responses are saved as samples."""
SELF_BLEU_REPLIES = 100
"""The most responses for self-BLEU, which compares each with every other."""


def evaluate_language_models(config: EvaluateConfig, results: ResultsFile) -> dict:
    """Return `by_model`, `data` and `samples` of evaluation.json.

    Raises:
        HfkitError: there are no held-out rows, or they cannot be read.
    """
    options = {name: getattr(config, name) for name in SUBJECT_KEYS}
    subjects = [Subject(*model, **options) for model in config.models().values()]
    held_out = load_held_out(config, are_pairs=False).shared_by([(one.tokenizer, one.context) for one in subjects])
    rows, stats = evaluation_prompts(config, held_out)
    prompts = {}
    if rows:
        rows, prompts = shared_prompts(rows, subjects, config.max_prompt_length, config.response_length, stats)
    by_model, replies, test_stats = {}, {}, []
    for subject in subjects:
        metrics, test = loss_metrics(subject, held_out, config.per_device_eval_batch_size)
        test_stats.append(test)
        if rows:
            sampling = Sampling(config.response_length, config.temperature, config.seed)
            ids = prompts[subject.name]
            replies[subject.name] = load_or_sample(subject, ids, sampling, results, config.per_device_eval_batch_size)
            metrics |= bootstrap_metric("ended", have_ended(subject, replies[subject.name], sampling))
            metrics |= reply_metrics(replies[subject.name], [row["reference"] for row in rows])
            subject.unload()
            metrics |= kl_metrics(config, subject, ids, replies[subject.name])
        if held_out.of_policy:
            metrics |= implicit_reward_metrics(config, subject, held_out)
        subject.unload()
        by_model[subject.name] = metrics
    if config.reward_model and rows:
        reward = load_reward(config.reward_model, dtype=config.dtype)
        for name, sampled in replies.items():
            texts = [reply.text for reply in sampled]
            scores = reward.score_sampled(rows, texts, config.per_device_eval_batch_size)
            by_model[name] |= bootstrap_metric("reward", scores.tolist())
    samples = [
        {"prompt": row["prompt"], "replies": {name: sampled[index].text for name, sampled in replies.items()}}
        for index, row in enumerate(rows[:KEPT_SAMPLES])
    ]
    data = {"test": test_stats[0].as_dict(), **({"prompts": stats.as_dict()} if rows else {})}
    return {"by_model": by_model, "data": data, "samples": samples}


def evaluation_prompts(config: EvaluateConfig, held_out: HeldOut) -> tuple[list[dict], SplitStats]:
    """Return prompts and statistics as `load_prompts` does; no prompts if the held-out rows are plain text."""
    if config.prompts:
        return load_prompts(config.prompts, config.max_prompts, config.seed, [])
    rows = rows_with_prompts(list(held_out.rows), [])
    if not rows:
        say("evaluate: the held-out rows are plain text: name prompts to respond to with --prompts")
    return sample_rows(rows, config.max_prompts, config.seed), SplitStats("prompts", [{"of": "test"}], len(rows))


def bootstrap_metric(name: str, values, weights=None) -> dict[str, float]:
    """Return the mean (or ratio of sums) with its 95% bootstrap interval, as NAME, NAME_low, NAME_high."""
    low, high = bootstrap_interval(values, weights)
    mean = sum(values) / (len(values) if weights is None else sum(weights))
    return {name: float(mean), f"{name}_low": low, f"{name}_high": high}


def loss_metrics(subject: Subject, held_out: HeldOut, batch_size: int) -> tuple[dict[str, float], SplitStats]:
    """Return `loss` (nats per labeled token), `perplexity` and `bits_per_byte`; and statistics of the rows."""
    rows, stats = held_out.encoded(subject.tokenizer, subject.context)
    found = text_likelihoods(subject.model, subject.tokenizer, rows, batch_size)
    metrics = {
        **bootstrap_metric("loss", found.nats, found.tokens),
        "perplexity": perplexity(found.nats, found.tokens),
        "bits_per_byte": bits_per_byte(found.nats, found.sizes),
    }
    return metrics, stats


def reply_metrics(replies: list[Reply], references: list[str | None]) -> dict[str, float]:
    """Return length (tokens), entropy, distinct-1 and -2, self-BLEU; `exact_match` if every prompt has a reference."""
    texts, lengths = [reply.text for reply in replies], [len(reply.ids) for reply in replies]
    metrics = bootstrap_metric("reply_length", lengths) | reply_diversity(replies)
    metrics["self_bleu"] = self_bleu(texts[:SELF_BLEU_REPLIES])
    if None not in references:
        matches = [exact_match([text], [wanted]) for text, wanted in zip(texts, references, strict=True)]
        metrics |= bootstrap_metric("exact_match", matches)
    return metrics


def kl_metrics(
    config: EvaluateConfig, subject: Subject, prompts: list[list[int]], replies: list[Reply]
) -> dict[str, float]:
    """Return the KL to the reference, in nats per response; {} without a reference, or for greedy responses."""
    path, revision = kl_reference(config, subject)
    if path is None or config.temperature == 0:
        return {}
    reference = Subject("reference", path, revision, config.dtype)
    if reference.tokenizer.get_vocab() != subject.tokenizer.get_vocab():
        warn(f"evaluate: no KL of {subject.name} to {path}, since their tokenizers differ")
        return {}
    ids = [reply.ids for reply in replies]
    scored = likelihoods(reference.model, reference.tokenizer, prompts, ids, config.temperature)
    logprobs = [float(one.logprobs.sum()) for one in scored]
    differences = [kl_per_reply([reply.logprob], [other]) for reply, other in zip(replies, logprobs, strict=True)]
    return bootstrap_metric("kl", differences)


def implicit_reward_metrics(config: EvaluateConfig, subject: Subject, held_out: HeldOut) -> dict[str, float]:
    """Return `accuracy` and `margin` of the implicit rewards, beta log(policy / reference), on held-out pairs.

    These are DPO's (Rafailov et al. 2023, arXiv 2305.18290, section 5); {} for a model that was not trained with DPO.
    """
    record = record_of(subject.path, subject.revision) or {}
    settings, spec = record.get("config", {}), spec_of(record.get("stage"))
    path, revision = kl_reference(config, subject)
    if path is None or "beta" not in settings or spec is None or spec.form != "comparisons":
        return {}
    rows, _ = held_out.encoded(subject.tokenizer, subject.context)
    sides, size = [labeled(rows, side) for side in (0, 1)], config.per_device_eval_batch_size
    rewards = []
    for one in (subject, Subject("reference", path, revision, config.dtype)):
        found = [text_likelihoods(one.model, subject.tokenizer, side, size) for side in sides]
        rewards.append([-settings["beta"] * likely.nats for likely in found])
        one.unload()
    (chosen, rejected), (chosen_before, rejected_before) = rewards
    margins = (chosen - chosen_before) - (rejected - rejected_before)
    return bootstrap_metric("accuracy", (margins > 0).astype(float)) | bootstrap_metric("margin", margins)


def kl_reference(config: EvaluateConfig, subject: Subject) -> tuple[str | None, str]:
    """Return path and revision of the reference: the config's model, else the one that the policy started from.

    The path is None if there is no such model, or its weights have changed.
    """
    if config.reference:
        return config.reference, "main"
    record = record_of(subject.path, subject.revision) or {}
    spec, start = spec_of(record.get("stage")), start_of(record)
    if start is None or spec is None or not spec.holds_reference:
        return None, "main"
    if change := change_since(start):
        warn(f"evaluate: no KL of {subject.name} to {start['path']}: {change}; name another model with --reference")
        return None, "main"
    return start["path"], start["revision"] or "main"
