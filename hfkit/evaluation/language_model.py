"""The figures of language models: how likely they find held-out rows, and what their replies are like."""

from hfkit.config.evaluation import EvaluateConfig, split_name
from hfkit.core.console import say, warn
from hfkit.core.errors import HfkitError
from hfkit.data.cards import entries_of
from hfkit.data.splits import SplitStats
from hfkit.evaluation.diversity import variety
from hfkit.evaluation.held_out import HeldOut, find_held_out, text_likelihoods
from hfkit.evaluation.lines import Lines
from hfkit.evaluation.prompts import chosen, load_prompts, prompts_of, readable_prompts
from hfkit.evaluation.replies import Reply, Sampling, Subject, sample_once
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.formulas import bits_per_byte, exact_match, kl_per_reply, perplexity, self_bleu
from hfkit.models.generation import likelihoods
from hfkit.models.reward_model import load_reward
from hfkit.records.lineage import change_since
from hfkit.records.record import record_of

KEPT_SAMPLES = 5
"""Prompts whose replies are kept as samples."""
MOST_ALIKE = 100
"""Replies that self-BLEU looks at: it compares each with each."""


def evaluate_language_models(config: EvaluateConfig, kept: Lines) -> dict:
    """`by_model`, `data` and `samples` of evaluation.json.

    Raises:
        HfkitError: there are no held-out rows, or they cannot be read.
    """
    name, path = split_name(config.model_name_or_path)
    subjects = [Subject(name, path, config.model_revision, config.dtype)]
    subjects += [Subject(*split_name(given), dtype=config.dtype) for given in config.against]
    held_out = held_out_of(config, subjects[0]).shared_by([(one.tokenizer, one.context) for one in subjects])
    rows, account = prompts_to_reply_to(config, held_out)
    prompts = {}
    if rows:
        rows, prompts = readable_prompts(rows, subjects, config.max_prompt_length, config.response_length, account)
    by_model, replies, accounts = {}, {}, []
    for subject in subjects:
        figures, test = loss_figures(subject, held_out, config.per_device_eval_batch_size)
        accounts.append(test)
        if rows:
            sampling = Sampling(config.response_length, config.temperature, config.seed)
            ids = prompts[subject.name]
            replies[subject.name] = sample_once(subject, ids, sampling, kept, config.per_device_eval_batch_size)
            figures |= reply_figures(replies[subject.name], [row["reference"] for row in rows])
            subject.unload()
            figures |= kl_figures(config, subject, ids, replies[subject.name])
        subject.unload()
        by_model[subject.name] = figures
    if config.reward_model and rows:
        reward = load_reward(config.reward_model, dtype=config.dtype)
        for name, said in replies.items():
            texts = [reply.text for reply in said]
            scores = reward([row["prompt"] for row in rows], texts, config.per_device_eval_batch_size)
            by_model[name] |= bootstrap_metric("reward", scores.tolist())
    samples = [
        {"prompt": row["prompt"], "replies": {name: said[place].text for name, said in replies.items()}}
        for place, row in enumerate(rows[:KEPT_SAMPLES])
    ]
    data = {"test": accounts[0].as_dict(), **({"prompts": account.as_dict()} if rows else {})}
    return {"by_model": by_model, "data": data, "samples": samples}


def held_out_of(config: EvaluateConfig, subject: Subject) -> HeldOut:
    """The rows that the config names, else those that the model's record does."""
    record, entries = record_of(subject.path, subject.revision) or {}, entries_of(config.datasets)
    try:
        return find_held_out(record, False, config.max_rows, entries, config.seed)
    except HfkitError as error:
        raise HfkitError(f"{error}\nName rows that no training saw: --datasets FILE") from error


def prompts_to_reply_to(config: EvaluateConfig, held_out: HeldOut) -> tuple[list[dict], SplitStats]:
    """Prompts as `load_prompts` has them, with their account; none where plain text is all there is."""
    if config.prompts:
        return load_prompts(entries_of(config.prompts), config.max_prompts, config.seed, [])
    rows = prompts_of(list(held_out.rows), [])
    if not rows:
        say("evaluate: plain text asks nothing, so there are no replies; --prompts names some")
    return chosen(rows, config.max_prompts, config.seed), SplitStats("prompts", [{"of": "test"}], len(rows))


def bootstrap_metric(name: str, values, weights=None) -> dict[str, float]:
    """Mean (or ratio of sums) with its 95% bootstrap interval, as NAME, NAME_low, NAME_high."""
    low, high = bootstrap_interval(values, weights)
    mean = sum(values) / (len(values) if weights is None else sum(weights))
    return {name: float(mean), f"{name}_low": low, f"{name}_high": high}


def loss_figures(subject: Subject, held_out: HeldOut, batch_size: int) -> tuple[dict[str, float], SplitStats]:
    """`loss` (nats per token of the replies, of texts all), `perplexity`, `bits_per_byte`; and the rows' account."""
    rows, account = held_out.encoded(subject.tokenizer, subject.context)
    found = text_likelihoods(subject.model, subject.tokenizer, rows, batch_size)
    figures = {
        **bootstrap_metric("loss", found.nats, found.tokens),
        "perplexity": perplexity(found.nats, found.tokens),
        "bits_per_byte": bits_per_byte(found.nats, found.sizes),
    }
    return figures, account


def reply_figures(replies: list[Reply], references: list[str | None]) -> dict[str, float]:
    """Length (tokens), entropy, distinct-1 and -2, self-BLEU of replies; `exact_match` where all have a reference."""
    texts, lengths = [reply.text for reply in replies], [len(reply.ids) for reply in replies]
    figures = {
        **bootstrap_metric("reply_length", lengths),
        **variety(replies),
        "self_bleu": self_bleu(texts[:MOST_ALIKE]),
    }
    if None not in references:
        right = [exact_match([text], [wanted]) for text, wanted in zip(texts, references, strict=True)]
        figures |= bootstrap_metric("exact_match", right)
    return figures


def kl_figures(
    config: EvaluateConfig, subject: Subject, prompts: list[list[int]], replies: list[Reply]
) -> dict[str, float]:
    """KL to the reference, in nats per reply; {} where there is none, or for greedy replies, which estimate none."""
    path, revision = reference_of(config, subject)
    if path is None or config.temperature == 0:
        return {}
    reference = Subject("reference", path, revision, config.dtype)
    if reference.tokenizer.get_vocab() != subject.tokenizer.get_vocab():
        warn(f"evaluate: no KL of {subject.name} to {path}: their tokenizers differ")
        return {}
    ids = [reply.ids for reply in replies]
    said = likelihoods(reference.model, reference.tokenizer, prompts, ids, config.temperature)
    under = [float(one.logprobs.sum()) for one in said]
    differences = [kl_per_reply([reply.logprob], [other]) for reply, other in zip(replies, under, strict=True)]
    return bootstrap_metric("kl", differences)


def reference_of(config: EvaluateConfig, subject: Subject) -> tuple[str | None, str]:
    """Path and revision of the model that a subject's KL is to: the config's, else the SFT model behind PPO."""
    if config.reference:
        return config.reference, "main"
    record = record_of(subject.path, subject.revision) or {}
    parents = [parent for parent in record.get("lineage", []) if record.get("stage") == "ppo"]
    sft = next((parent for parent in parents if parent["role"] == "start"), None)
    if sft is None:
        return None, "main"
    fate = change_since(sft)
    if fate:
        warn(f"evaluate: no KL of {subject.name} to {sft['path']}: {fate}; --reference names another model")
        return None, "main"
    return sft["path"], sft["revision"] or "main"
