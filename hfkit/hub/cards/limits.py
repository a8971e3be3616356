"""What a model should not be trusted with, as far as its record tells."""

from hfkit.config.registry import spec_of
from hfkit.hub.cards.artefact import Artefact
from hfkit.hub.cards.markdown import one_line
from hfkit.hub.homes import without_places


def limits(artefact: Artefact) -> str:
    """A list: how little it has seen, what was lost on the way, what was not measured; a tokenizer has none."""
    if artefact.stage == "tokenizer":
        return ""
    record, settings = artefact.record, artefact.record["config"]
    lines = [*rows_lost(record["data"]), *what_was_seen(artefact)]
    if record.get("stopped"):
        lines.append(f"The training stopped early: {record['stopped']}.")
    told = [one_line(without_places(warning)) for warning in record.get("warnings", [])]
    lines += [f"While it was made, this was warned of: {warning}" for warning in told]
    if artefact.is_adapter and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        bits = 4 if settings.get("load_in_4bit") else 8
        lines.append(f"Its base was held in {bits} bits: on the base in full precision its figures are a little other.")
    if artefact.is_reward:
        lines.append("Its rewards rank replies to the same prompt; their zero and their scale mean nothing.")
        lines.append("What its pairs favour besides better answers, length or flattery for one, it favours too.")
    else:
        lines.append("Whether what it writes is safe and fair was not measured.")
    spec = spec_of(artefact.stage)
    if spec and spec.limits:
        lines.append(spec.limits)
    return "\n".join(f"- {line}" for line in lines)


def what_was_seen(artefact: Artefact) -> list[str]:
    """How much there was to learn from, how long a row could be, and whether any was held out."""
    record, lines = artefact.record, []
    if artefact.stage == "merge":
        return []
    train = record["data"]["train"]
    steps = f", in {record['steps']:,} steps" if record.get("steps") else ""
    lines.append(f"It was trained on {train['kept']:,} rows{steps}.")
    longest = {"max_length": "row", "block_size": "row", "max_prompt_length": "prompt", "response_length": "reply"}
    for key, what in longest.items():
        if record["config"].get(key):
            lines.append(f"No {what} of its training was longer than {record['config'][key]:,} tokens.")
    if "test" not in record["data"]:
        lines.append("No rows were held out: how it does on what it has not seen was not measured.")
    return lines


def rows_lost(data: dict[str, dict]) -> list[str]:
    """What was dropped, cut or found wrong in each split, with the reasons."""
    lines = []
    for name, split in data.items():
        reasons = ", ".join(f"{count:,} {why}" for why, count in split["dropped"].items())
        if reasons:
            lines.append(f"Of {split['rows']:,} rows of {name}, some were dropped: {reasons}.")
        if split["cut"]:
            lines.append(f"Of {split['rows']:,} rows of {name}, {split['cut']:,} were cut at their end.")
        found = ", ".join(f"{count:,} {fault}" for fault, count in split.get("faults", {}).items())
        if found:
            lines.append(f"Of the rows of {name} that were kept, {found}.")
    return lines
