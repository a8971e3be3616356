"""The base beneath an adapter: its record names it with the hash of its weights, and no other one is taken for it."""

from hfkit.core.errors import HfkitError
from hfkit.records.record import model_identity, record_of
from hfkit.records.source import Source, read_json


def base_identity(path: str, revision: str = "main") -> dict:
    """A base as an adapter's record names it: path or Hub id, revision, weights_sha256.

    Where its weights are stored quantized there is `quantization`, their method, too.
    """
    identity, method = model_identity(path, revision), stored_quantization(path, revision)
    return {**identity, "quantization": method} if method else identity


def stored_quantization(path: str, revision: str = "main") -> str | None:
    """The method in which a model's weights are stored quantized; None for full precision."""
    settings = (read_json(path, "config.json", revision) or {}).get("quantization_config")
    return settings.get("quant_method", "unknown") if isinstance(settings, dict) else None


def base_fault(source: Source) -> str | None:
    """Why the base at hand is not the one that an adapter was trained on, and what to do; None where it is.

    None, too, where that cannot be told: no adapter, a record that names no base, weights that are not there yet.
    """
    record = record_of(source.path, source.revision) if source.adapter is not None else None
    trained_on = (record or {}).get("base")
    if not isinstance(trained_on, dict) or not trained_on.get("weights_sha256"):
        return None
    here = base_identity(source.base, source.base_revision)
    if here["weights_sha256"] in (None, trained_on["weights_sha256"]):
        return None
    if trained_on.get("quantization") and not here.get("quantization"):
        return None  # the full-precision weights behind a base that is stored quantized: their hash is another
    return (
        f"{source.path} was trained on the base {describe_base(trained_on)}, and {describe_base(here)} is another one. "
        "Put the former in its place, or say where it lies: base=... in Python, --base for `hfkit merge`, "
        "base_model_name_or_path in adapter_config.json for a stage"
    )


def same_base(one: Source, other: Source) -> bool:
    """Whether two models stand on the same weights, wherever these lie."""
    here, there = (base_identity(source.base, source.base_revision) for source in (one, other))
    if here["weights_sha256"] and there["weights_sha256"]:
        return here["weights_sha256"] == there["weights_sha256"]
    return (here["path"], here["revision"]) == (there["path"], there["revision"])


def require_own_base(source: Source) -> None:
    """Raises HfkitError if the base at hand is not the one that the adapter was trained on."""
    fault = base_fault(source)
    if fault:
        raise HfkitError(fault)


def describe_base(base: dict) -> str:
    """A base in a line: where it lies, and the first digits of its revision and of its weights' hash."""
    revision = f" at {base['revision'][:12]}" if base.get("revision") else ""
    return f"{base['path']}{revision} (weights {(base['weights_sha256'] or 'unknown')[:12]})"
