"""Reads the versions of hfkit and of the libraries that decide what a run computes."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("hfkit", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def package_versions() -> dict[str, str | None]:
    """Return the version of each package; None if it is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
