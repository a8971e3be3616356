"""Identifies the base of an adapter by the hash of its weights, so that no other base is used for it."""

from hfkit.core.errors import HfkitError
from hfkit.records.record import model_identity, record_of
from hfkit.records.source import Source, read_json


def base_identity(path: str, revision: str = "main") -> dict:
    """Return a base as recorded for an adapter: path, revision, weights_sha256.

    `quantization`, the method, is added if the stored weights are quantized.
    """
    identity, method = model_identity(path, revision), stored_quantization(path, revision)
    return {**identity, "quantization": method} if method else identity


def stored_quantization(path: str, revision: str = "main") -> str | None:
    """Return the quantization method of a model's stored weights; None for full precision."""
    settings = (read_json(path, "config.json", revision) or {}).get("quantization_config")
    return settings.get("quant_method", "unknown") if isinstance(settings, dict) else None


def base_fault(source: Source) -> str | None:
    """Return that the base of `source` is not the one that its adapter was trained on, and what to do; else None.

    Also return None if that is unknown: no adapter, no base in its record, or weights that are not fetched yet.
    """
    record = record_of(source.path, source.revision) if source.adapter is not None else None
    trained_on = (record or {}).get("base")
    if not isinstance(trained_on, dict) or not trained_on.get("weights_sha256"):
        return None
    given = base_identity(source.base, source.base_revision)
    if given["weights_sha256"] in (None, trained_on["weights_sha256"]):
        return None
    if trained_on.get("quantization") and not given.get("quantization"):
        return None  # the full-precision weights of a base that is stored quantized: their hash differs
    return (
        f"{source.path} was trained on the base {describe_base(trained_on)}, but its base is now "
        f"{describe_base(given)}: restore the original base, or name it: base=... in Python, --base for `hfkit merge` "
        "and `hfkit export`, base_model_name_or_path in adapter_config.json for a stage"
    )


def same_base(one: Source, other: Source) -> bool:
    """Return whether the bases of two models have the same weights, whatever their paths."""
    first, second = (base_identity(source.base, source.base_revision) for source in (one, other))
    if first["weights_sha256"] and second["weights_sha256"]:
        return first["weights_sha256"] == second["weights_sha256"]
    return (first["path"], first["revision"]) == (second["path"], second["revision"])


def require_own_base(source: Source) -> None:
    """Raise HfkitError if the base of `source` is not the one that its adapter was trained on."""
    fault = base_fault(source)
    if fault:
        raise HfkitError(fault)


def describe_base(base: dict) -> str:
    """Return a base in one line: its path, and the first 12 digits of its revision and of its weights' hash."""
    revision = f" at {base['revision'][:12]}" if base.get("revision") else ""
    return f"{base['path']}{revision} (weights {(base['weights_sha256'] or 'unknown')[:12]})"
