"""Reads the versions of hfkit and of the libraries that decide what a run computes."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("hfkit", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def package_versions() -> dict[str, str | None]:
    """Return the version of each package; None if it is not installed."""
    return {name: version_of(name) for name in PACKAGES}


@cache
def version_of(package: str) -> str | None:
    """Return the version of a package as this process first saw it; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
