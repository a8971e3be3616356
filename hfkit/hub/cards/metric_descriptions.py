"""What each metric of a record means, in one line, and its type in the Hub's model index."""

from dataclasses import dataclass

from hfkit.config.registry import spec_of


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric; its type and name in the model index, if it belongs there."""

    meaning: str
    type: str | None = None
    name: str | None = None


NATS = "nats per token"
DESCRIPTIONS = {
    "vocab_size": Metric("tokens in the vocabulary"),
    "bytes_per_token": Metric("mean bytes of UTF-8 text per token, on the first training rows"),
    "eval_loss": Metric(f"cross-entropy on held-out rows, {NATS}; of responses only, if rows have them", "loss"),
    "eval_perplexity": Metric("exp(loss)", "perplexity"),
    "eval_bits_per_byte": Metric("loss in bits per byte of UTF-8 text: comparable across tokenizers", "bits_per_byte"),
    "eval_mean_token_accuracy": Metric("share of held-out tokens that the model ranks first", "accuracy"),
    "eval_entropy": Metric(f"entropy of the model's distribution on held-out rows, {NATS}"),
    "eval_accuracy": Metric("share of held-out pairs whose chosen response gets the higher reward", "accuracy"),
    "eval_accuracy_chosen_longer": Metric("accuracy on pairs whose chosen response is the longer one"),
    "eval_accuracy_chosen_shorter": Metric(
        "accuracy on pairs whose chosen response is the shorter one; far lower if rewards follow length"
    ),
    "eval_longer_preferred": Metric("share of pairs in which the longer response gets the higher reward"),
    "eval_longer_chosen": Metric("share of pairs in which the longer response is the chosen one"),
    "eval_margin": Metric("mean reward of the chosen response minus that of the rejected one", "margin"),
    "eval_log_loss": Metric("-log sigmoid(margin) on held-out pairs, in nats; 0.693 is chance", "log_loss"),
    "eval_calibration_error": Metric(
        "gap between the confidence and the accuracy of the rewards, over ten bins", "expected_calibration_error"
    ),
    "eval_reward_mean": Metric("mean reward of all held-out responses"),
    "eval_reward_std": Metric("standard deviation of these rewards"),
    "reward_first": Metric("mean reward over the first tenth of the updates"),
    "reward_last": Metric("mean reward over the last tenth of the updates"),
    "kl_first": Metric("mean KL to the SFT model over the first tenth of the updates, nats per response"),
    "kl_last": Metric("mean KL to the SFT model over the last tenth of the updates, nats per response"),
    "kl_max": Metric("largest KL of an update, nats per response"),
    "eval_kl": Metric("KL to the SFT model on held-out prompts, nats per response", "kl", "KL to the SFT model"),
    "eval_reward_sft": Metric("mean reward of the SFT model's responses to held-out prompts"),
    "eval_reward_ppo": Metric(
        "mean reward of this model's responses to the same prompts", "mean_reward", "mean reward, by its reward model"
    ),
    "eval_entropy_sft": Metric(f"entropy of the SFT model on its own responses, {NATS}"),
    "eval_entropy_ppo": Metric(f"entropy of this model on its own responses, {NATS}"),
    "eval_length_sft": Metric("mean length of the SFT model's responses, in tokens"),
    "eval_length_ppo": Metric("mean length of this model's responses, in tokens"),
    "eval_reply_length": Metric("mean length of the responses, in tokens"),
    "evaluation/entropy": Metric(f"entropy of the model on its own responses, {NATS}"),
    "eval_distinct_1": Metric("share of distinct words in the responses"),
    "eval_distinct_2": Metric("share of distinct word pairs in the responses"),
    "eval_self_bleu": Metric("BLEU of each response against the other ones: 1 if all are alike"),
    "eval_exact_match": Metric("share of responses that equal the reference", "exact_match"),
    "eval_reward": Metric("mean reward of the responses", "mean_reward"),
    "eval_rows": Metric("held-out rows on which adapter and merged model were compared"),
    "eval_loss_adapter": Metric(f"loss of the adapter on the base it was trained on, {NATS}"),
    "eval_perplexity_adapter": Metric("exp(loss) of the adapter"),
    "eval_loss_merged": Metric(f"loss of this merged model, {NATS}", "loss"),
    "eval_perplexity_merged": Metric("exp(loss) of this merged model", "perplexity"),
    "eval_perplexity_ratio": Metric("perplexity of the merged model divided by that of the adapter"),
    "eval_accuracy_adapter": Metric("share of pairs that the adapter ranks correctly on the base it was trained on"),
    "eval_accuracy_merged": Metric("share of pairs that this merged model ranks correctly", "accuracy"),
    "eval_reward_difference": Metric("mean absolute difference between the rewards of both models"),
    "eval_reward_difference_ratio": Metric("that difference in standard deviations of the adapter's rewards"),
}


def describe_metric(origin: str, key: str) -> Metric:
    """Return what is known of a metric; an unknown one has an empty meaning.

    Args:
        origin: the stage that measured it, or "evaluation".
    """
    if key == "train_loss":
        spec = spec_of(origin)
        return Metric(f"mean training loss: {spec.loss_label[1]}" if spec else "mean training loss")
    names = [f"{origin}/{key}", f"eval_{key}" if origin == "evaluation" else key]
    return next((DESCRIPTIONS[name] for name in names if name in DESCRIPTIONS), Metric(""))


def numbers_in(metrics: dict) -> dict[str, float]:
    """Return the metrics of a record that are numbers, without the ends of intervals."""
    ends = {f"{key}{end}" for key in metrics for end in ("_low", "_high")}
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and key not in ends}


def metric_text(metrics: dict, key: str) -> str:
    """Return a metric as text, with its 95% interval if it is known."""
    ends = [metrics.get(f"{key}{end}") for end in ("_low", "_high")]
    interval = "" if None in ends else " ({:.4g} to {:.4g})".format(*ends)
    return f"{metrics[key]:.4g}{interval}"
