"""What the figures of a record mean, in a line each, and what the Hub calls them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure's meaning and, where it goes into the model index, its type and name there."""

    meaning: str
    type: str | None = None
    name: str | None = None


NATS = "nats per token"
METRICS = {
    "vocab_size": Metric("tokens of the vocabulary"),
    "bytes_per_token": Metric("bytes of UTF-8 text that a token stands for, on the first training rows"),
    "train_loss": Metric(f"mean loss of the training, {NATS}"),
    "eval_loss": Metric(f"cross-entropy on held-out rows, {NATS}; of replies alone where rows have them", "loss"),
    "eval_perplexity": Metric("the exponential of that loss", "perplexity"),
    "eval_bits_per_byte": Metric(
        "that loss in bits per byte of UTF-8 text: comparable across tokenizers", "bits_per_byte"
    ),
    "eval_mean_token_accuracy": Metric("share of held-out tokens that the model finds likeliest", "accuracy"),
    "eval_entropy": Metric(f"entropy of the model's distribution on held-out rows, {NATS}"),
    "reward/train_loss": Metric("mean pairwise loss of the training, -log sigmoid(chosen - rejected), in nats"),
    "eval_accuracy": Metric("share of held-out pairs whose chosen reply gets the higher reward", "accuracy"),
    "eval_accuracy_chosen_longer": Metric("accuracy on the pairs whose chosen reply is the longer one"),
    "eval_accuracy_chosen_shorter": Metric("accuracy on the others of unequal length: far apart, length decides"),
    "eval_longer_preferred": Metric("how often the rewards side with the longer reply"),
    "eval_longer_chosen": Metric("how often the labels do"),
    "eval_margin": Metric("mean reward of the chosen reply less that of the rejected one", "margin"),
    "eval_log_loss": Metric("-log sigmoid(margin) on held-out pairs, in nats; 0.693 is chance", "log_loss"),
    "eval_calibration_error": Metric(
        "gap between how sure the rewards are of a pair and how often they are right, over ten bins",
        "expected_calibration_error",
    ),
    "eval_reward_mean": Metric("mean reward of all held-out replies"),
    "eval_reward_std": Metric("standard deviation of those rewards"),
    "reward_first": Metric("mean reward over the first tenth of the updates"),
    "reward_last": Metric("mean reward over the last tenth of the updates"),
    "kl_first": Metric("mean KL to the SFT model over the first tenth of the updates, nats per reply"),
    "kl_last": Metric("mean KL to the SFT model over the last tenth of the updates, nats per reply"),
    "kl_max": Metric("largest KL of an update, nats per reply"),
    "eval_kl": Metric("KL to the SFT model on held-out prompts, nats per reply", "kl", "KL to the SFT model"),
    "eval_reward_sft": Metric("mean reward of the SFT model's replies to held-out prompts"),
    "eval_reward_ppo": Metric(
        "mean reward of this model's replies to the same prompts",
        "mean_reward",
        "mean reward, of the model that it was trained on",
    ),
    "eval_entropy_sft": Metric(f"entropy of the SFT model as it replies, {NATS}"),
    "eval_entropy_ppo": Metric(f"entropy of this model as it replies, {NATS}"),
    "eval_length_sft": Metric("mean tokens of the SFT model's replies"),
    "eval_length_ppo": Metric("mean tokens of this model's replies"),
    "eval_reply_length": Metric("mean tokens of its replies"),
    "evaluation/entropy": Metric(f"entropy of the model as it replies, {NATS}"),
    "eval_distinct_1": Metric("share of different words among those of its replies"),
    "eval_distinct_2": Metric("share of different pairs of words among those of its replies"),
    "eval_self_bleu": Metric("BLEU of each of its replies against the others: 1 where all are alike"),
    "eval_exact_match": Metric("share of its replies that are the reference", "exact_match"),
    "eval_reward": Metric("mean reward of its replies", "mean_reward"),
    "eval_rows": Metric("held-out rows that adapter and merged model were compared on"),
    "eval_loss_adapter": Metric(f"loss of the adapter on its base as it was trained, {NATS}"),
    "eval_perplexity_adapter": Metric("the exponential of that loss"),
    "eval_loss_merged": Metric(f"loss of this merged model, {NATS}", "loss"),
    "eval_perplexity_merged": Metric("the exponential of that loss", "perplexity"),
    "eval_perplexity_ratio": Metric("perplexity of the merged model over the adapter's"),
    "eval_accuracy_adapter": Metric("share of pairs that the adapter, as it was trained, ranks right"),
    "eval_accuracy_merged": Metric("share of pairs that this merged model ranks right", "accuracy"),
    "eval_reward_difference": Metric("mean difference of the two models' rewards, without its sign"),
    "eval_reward_difference_ratio": Metric("that difference in standard deviations of the adapter's rewards"),
}


def figure_of(stage: str, key: str) -> Metric:
    """What is known of a figure of a stage, or of `evaluation`; one not known by its name has no meaning here."""
    names = [f"{stage}/{key}", f"eval_{key}" if stage == "evaluation" else key]
    return next((METRICS[name] for name in names if name in METRICS), Metric(""))


def numbers_in(metrics: dict) -> dict[str, float]:
    """The figures of a record that are numbers, without the ends of intervals."""
    ends = {f"{key}{end}" for key in metrics for end in ("_low", "_high")}
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and key not in ends}


def metric_text(metrics: dict, key: str) -> str:
    """A figure as text, with its 95% interval where that is known."""
    ends = [metrics.get(f"{key}{end}") for end in ("_low", "_high")]
    interval = "" if None in ends else " ({:.4g} to {:.4g})".format(*ends)
    return f"{metrics[key]:.4g}{interval}"
