"""Translates values of other tools that must be computed; `other_tools.yaml` has those that are fixed."""

from collections.abc import Callable

from hfkit.commands.init.foreign import ForeignConfig
from hfkit.config.registry import STAGES
from hfkit.config.validation import find_hint

ValueConversion = Callable[[object, ForeignConfig], dict | None]
"""A function of a value and of the whole config; it returns settings of hfkit, {} if none is needed, or None if the
table must answer."""
MOST_WARMUP = 100
"""Steps of axolotl's default warm-up at most."""
SAVING_PLUGINS = ("CutCrossEntropyPlugin", "LigerPlugin")
"""Plugins of axolotl that compute the same with less memory."""


def convert_value(key: str, value: object, config: ForeignConfig) -> dict | None:
    """Return the settings for a value that must be computed; None for all others."""
    try:
        return CONVERSIONS[key](value, config) if key in CONVERSIONS else None
    except (TypeError, ValueError, ArithmeticError):  # of another type than the tool expects
        return None


def split_names(given: object) -> list[str]:
    """Return the names in a text with commas, or in a list."""
    names = given if isinstance(given, list) else str(given or "").split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def split_items(given: dict[str, object]) -> list[tuple[str, object]]:
    """Return keys and values; those of axolotl's block `trl`, and the token to pad with, are split from the others."""
    items, tokens = dict(given), given.get("special_tokens")
    if isinstance(items.get("trl"), dict):
        nested = {str(key): value for key, value in items.pop("trl").items() if value is not None}
        return [*split_items(items), *nested.items()]
    if not isinstance(tokens, dict) or len(tokens) < 2 or "pad_token" not in tokens:
        return [*items.items()]
    items["special_tokens"] = {"pad_token": tokens["pad_token"]}
    others = {name: token for name, token in tokens.items() if name != "pad_token"}
    return [*items.items(), ("special_tokens", others)]


def names_of(key: str) -> ValueConversion:
    """Return a function that reads a text of names with commas as a list."""
    return lambda value, _: {key: split_names(value)}


def times_per_epoch(strategy: str, steps: str) -> ValueConversion:
    """Return a function that translates a number of times per epoch: 1 is a strategy, others are a share of the run."""
    return lambda value, config: (
        {strategy: "epoch"}
        if value == 1
        else {strategy: "steps", steps: round(1 / (value * float(config.given.get("num_epochs", 1))), 4)}
    )


def is_evaluated(config: ForeignConfig) -> bool:
    """Return whether a config of axolotl holds rows out; without them, axolotl ignores when to evaluate."""
    return bool(config.given.get("val_set_size") or config.given.get("test_datasets"))


def evaluation_steps(value: object, config: ForeignConfig) -> dict | None:
    """Return the settings for axolotl's `eval_steps`, which need no strategy."""
    if config.tool != "axolotl":
        return None
    return {"eval_strategy": "steps", "eval_steps": value} if is_evaluated(config) else {}


def warmup_share(value: float, config: ForeignConfig) -> dict | None:
    """Return the steps of a warm-up that is a share of the run: axolotl rounds them down, hfkit up.

    They are known only if the config sets the steps of the run; the share is the value of `warmup_steps` otherwise.
    """
    if config.given.get("warmup_steps"):
        return {}
    steps = config.given.get("max_steps")
    if config.tool != "axolotl" or not steps:
        return None
    given = "warmup_ratio" in config.given
    warmup = int(value * steps) if given else min(int(value * steps), MOST_WARMUP)
    return warmup_steps(warmup, config) or {"warmup_steps": warmup}


def warmup_steps(value: object, config: ForeignConfig) -> dict | None:
    """Return the steps of a warm-up; axolotl makes 2 of 1."""
    return {"warmup_steps": 2} if config.tool == "axolotl" and value == 1 else None


def accumulated_batch(value: int, config: ForeignConfig) -> dict | None:
    """Return the settings for axolotl's `batch_size`, which counts the rows of a step."""
    if config.tool != "axolotl":
        return None
    steps = value // config.given.get("micro_batch_size", 1)
    return {} if config.given.get("gradient_accumulation_steps") else {"gradient_accumulation_steps": steps}


def long_rows(value: object, config: ForeignConfig) -> dict | None:
    """Return that axolotl's way to treat rows that are too long needs no setting where hfkit has the same."""
    same = "truncate" if STAGES[config.stage].form == "instructions" else "drop"
    return {} if str(value).lower() == same else None


def plugins(value: object, _: ForeignConfig) -> dict | None:
    """Return that axolotl's plugins need no setting if they only save memory."""
    return {} if all(str(name).rpartition(".")[2] in SAVING_PLUGINS for name in value) else None


def template_file(value: object, _: ForeignConfig) -> dict | None:
    """Return the setting for a chat template in a file."""
    return {"chat_template": value} if str(value).endswith((".jinja", ".jinja2")) else None


def named_template(value: object, config: ForeignConfig) -> dict | None:
    """Return that a chat template needs no setting if it is the tokenizer's, or a file that another key names."""
    is_file = value == "jinja" and template_file(config.given.get("chat_template_jinja"), config)
    return {} if str(value).startswith("tokenizer_default") or is_file else None


def reward_functions(value: object, _: ForeignConfig) -> dict | None:
    """Return the setting for functions that TRL imports as MODULE.FUNCTION; its own have no module."""
    names = split_names(value)
    own = all("." in name for name in names)
    return {"reward_functions": [":".join(name.rsplit(".", 1)) for name in names]} if own else None


def with_sft_loss(value: object, config: ForeignConfig) -> dict:
    """Return the settings that add a weighted SFT loss to the one on preferences."""
    losses = split_names(config.given.get("pref_loss", config.given.get("loss_type", "sigmoid")))
    return {"loss_type": [*losses, "sft"], "loss_weights": [1.0] * len(losses) + [value]} if value else {}


def router_loss(value: object, config: ForeignConfig) -> dict | None:
    """Return the weight of the router loss of a mixture of experts, for the stages that have one."""
    key = "router_aux_loss_coef"
    has_key = find_hint(STAGES[config.stage].config_class, key)[0] is not None
    return {key: value} if value and has_key else None


def has_lowest_rate(config: ForeignConfig) -> bool:
    """Return whether axolotl's cosine schedule ends at a share of the learning rate, as one of hfkit does."""
    given = config.given
    is_cosine = given.get("lr_scheduler", "cosine") == "cosine" and not given.get("cosine_constant_lr_ratio")
    return config.tool == "axolotl" and is_cosine and bool(given.get("cosine_min_lr_ratio"))


def lowest_rate(_: object, config: ForeignConfig) -> dict | None:
    """Return the schedule of a config whose cosine ends at a share of the learning rate."""
    options = {"min_lr_rate": config.given.get("cosine_min_lr_ratio")}
    has_one = has_lowest_rate(config)
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": options} if has_one else None


def vllm_server(_: object, config: ForeignConfig) -> dict:
    """Return the settings of rollouts by a vLLM server, whose host and port are two keys."""
    given = {**config.given, **(config.given.get("trl") or {})}
    if not given.get("use_vllm") or given.get("vllm_mode") == "colocate":
        return {}
    host, port = given.get("vllm_server_host", "127.0.0.1"), given.get("vllm_server_port", 8000)
    host = "127.0.0.1" if host == "0.0.0.0" else host  # where a server listens, not where it is
    return {"vllm_mode": "server", "vllm_server_base_url": f"http://{host}:{port}"}


def continuous_batching(value: object, _: ForeignConfig) -> dict:
    """Return the setting for rollouts by Transformers' continuous batching."""
    return {"rollout_engine": "continuous"} if value else {}


def pushed_to(value: object, config: ForeignConfig) -> dict | None:
    """Return the settings for the repository of axolotl, which always pushes if it has one."""
    return {"push_to_hub": True, "hub_model_id": value} if config.tool == "axolotl" and value else None


def packing_of_text(separate: str | None) -> ValueConversion:
    """Return a function that translates whether plain texts are packed, which hfkit always does.

    Args:
        separate: the value of hfkit's `packing` for a tool whose packed texts do not attend to each other.
    """

    def convert(value: object, config: ForeignConfig) -> dict | None:
        if STAGES[config.stage].form != "text" or not isinstance(value, bool):
            return None
        if separate is None:
            return {} if value else None
        return {"packing": separate} if value else {}

    return convert


def buffered_batches(value: int, config: ForeignConfig) -> dict:
    """Return the settings of an update that collects the responses of several batches, with a step for each batch."""
    passes = config.given.get("gradient_accumulation_steps", 1)
    return {"num_mini_batches": value, "gradient_accumulation_steps": value * passes} if value > 1 else {}


def dropout_of_pairs(_: object, config: ForeignConfig) -> dict | None:
    """Return that dropout needs no setting where TRL's trainer, which all these tools use, turns it off."""
    spec = STAGES[config.stage]
    is_off = spec.form == "comparisons" and config.given.get("disable_dropout", True)
    return {} if is_off and (spec.holds_reference or config.tool != "LLaMA-Factory") else None


CONVERSIONS: dict[str, ValueConversion] = {
    "lora_dropout": dropout_of_pairs,
    "lora_target": names_of("lora_target_modules"),
    "target_modules": names_of("lora_target_modules"),
    "additional_target": names_of("modules_to_save"),
    "evals_per_epoch": lambda value, config: (
        times_per_epoch("eval_strategy", "eval_steps")(value, config) if is_evaluated(config) else {}
    ),
    "eval_steps": evaluation_steps,
    "saves_per_epoch": times_per_epoch("save_strategy", "save_steps"),
    "pref_ftx": with_sft_loss,
    "rpo_alpha": with_sft_loss,
    "packing": packing_of_text(separate=None),
    "sample_packing": packing_of_text(separate="documents"),
    "ppo_buffer_size": buffered_batches,
    "moe_aux_loss_coef": router_loss,
    "lr_scheduler": lowest_rate,
    "cosine_min_lr_ratio": lambda value, config: {} if has_lowest_rate(config) or not value else None,
    "vllm_server_host": vllm_server,
    "vllm_server_port": vllm_server,
    "hub_model_id": pushed_to,
    "chat_template_path": template_file,
    "cache_implementation": lambda value, _: {"rollout_engine": "static"} if value == "static" else None,
    "use_transformers_continuous_batching": continuous_batching,
    "use_transformers_paged": continuous_batching,
    "ref_model": lambda value, config: {} if value == config.given.get("model_name_or_path") else None,
    "chat_template": named_template,
    "chat_template_jinja": template_file,
    "warmup_ratio": warmup_share,
    "warmup_steps": warmup_steps,
    "batch_size": accumulated_batch,
    "excess_length_strategy": long_rows,
    "plugins": plugins,
    "reward_funcs": reward_functions,
    "gradient_checkpointing": lambda value, _: (
        {"gradient_checkpointing": True} if str(value) in ("offload", "offload_disk", "unsloth") else None
    ),
    "special_tokens": lambda value, _: {"pad_token": value["pad_token"]} if [*value] == ["pad_token"] else None,
}
