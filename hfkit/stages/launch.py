"""What every stage's command line does: parse, check, run."""

from collections.abc import Callable
from pathlib import Path


def launch(config_class: type, main: Callable[[object], Path], doc: str, argv: list[str] | None, verb: str) -> int:
    """Parses flags and YAML into `config_class` and runs the stage; the errors are the caller's to show."""
    from hfkit.console import quiet_libraries
    from hfkit.parsing import parse

    quiet_libraries()
    config = parse(config_class, argv, prog=f"hfkit {verb}", description=doc)
    main(config)
    return 0
