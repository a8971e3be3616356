"""The limitations section of a model card, built from the record."""

from hfkit.hub.cards.markdown import one_line
from hfkit.hub.cards.run_info import RunInfo
from hfkit.hub.published_record import without_paths

LENGTH_KEYS = {"max_prompt_length": "prompt", "response_length": "response"}
"""Settings that limit a part of a row, in tokens, where no `StageSpec.length_key` limits the row."""


def limitations_section(info: RunInfo) -> str:
    """Return a list of lost rows, the extent of training, and what was not measured; "" for a tokenizer."""
    if info.makes == "tokenizer":
        return ""
    record = info.record
    lines = [*lost_rows(record["data"]), *training_extent(info)]
    if record.get("stopped"):
        lines.append(f"Training stopped early: {record['stopped']}.")
    warnings = [one_line(without_paths(warning)) for warning in record.get("warnings", [])]
    lines += [f"Warning during training: {warning}" for warning in warnings]
    if info.quantized_bits:
        quantized = f"The base was quantized to {info.quantized_bits} bits during training"
        lines.append(f"{quantized}: expect slightly different metrics at full precision.")
    if info.is_reward_model:
        lines.append("Rewards compare responses to the same prompt; their zero and their scale have no meaning.")
        lines.append("Biases of the preference pairs, such as one for long or flattering responses, are learned too.")
    else:
        lines.append("Safety and fairness of the output were not measured.")
    lines += [spec.limits for spec in info.specs if spec.limits]
    return "\n".join(f"- {line}" for line in lines)


def training_extent(info: RunInfo) -> list[str]:
    """Return how many rows the model was trained on, how long they were, and whether any were held out."""
    record = info.record
    if info.is_merged or "train" not in record["data"]:
        return []
    steps = f", in {record['steps']:,} steps" if record.get("steps") else ""
    lines = [f"Trained on {record['data']['train']['kept']:,} rows{steps}."]
    if record.get("best_step", record.get("steps")) != record.get("steps"):
        metric, best = record["best_metric"], record["best_step"]
        lines.append(f"The weights and the metrics are those of step {best:,}, where `{metric}` was best.")
    row_keys = {spec.length_key: "row" for spec in info.specs if spec.length_key}
    for key, what in (row_keys or LENGTH_KEYS).items():
        if record["config"].get(key):
            lines.append(f"No {what} in training was longer than {record['config'][key]:,} tokens.")
    if "test" not in record["data"]:
        lines.append("No rows were held out: performance on unseen data was not measured.")
    return lines


def lost_rows(data: dict[str, dict]) -> list[str]:
    """Return how many rows of each split were dropped, truncated or faulty, with the reasons."""
    lines = []
    for name, split in data.items():
        reasons = ", ".join(f"{count:,} {why}" for why, count in split["dropped"].items())
        if reasons:
            lines.append(f"Of {split['rows']:,} rows in {name}, some were dropped: {reasons}.")
        if split["cut"]:
            lines.append(f"Of {split['rows']:,} rows in {name}, {split['cut']:,} were truncated at the end.")
        faults = ", ".join(f"{count:,} {fault}" for fault, count in split.get("faults", {}).items())
        if faults:
            lines.append(f"Among the rows kept in {name}: {faults}.")
    return lines
