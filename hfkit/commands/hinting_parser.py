"""Parses the flags of commands that have no config; imports no heavy library."""

from argparse import ArgumentParser

from hfkit.core.errors import nearest

SYNONYMS = {"max_new_tokens": "length", "max_tokens": "length", "response_length": "length"}
"""Names that stages and other tools have for flags of verbs."""


class HintingParser(ArgumentParser):
    """A parser whose errors end with an example, and name the flag that an unknown flag probably means."""

    def parse_args(self, args=None, namespace=None):
        """Parse all arguments; exit with the hints for those that are unknown."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hints = [f"; {hint}" for word in unknown if word.startswith("--") and (hint := self.hint(word))]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return given

    def error(self, message):
        """Print the usage, an error, what each required flag takes, and the example of the description; exit with 2."""
        flags = [
            f"\n  {'/'.join(one.option_strings)}: {one.help}"
            for one in self._actions
            if one.required and one.option_strings
        ]
        example = (self.description or "").partition("\n")[0]
        super().error(f"{message}{''.join(flags)}" + (f"\n  example: {example}" if example else ""))

    def hint(self, word: str) -> str:
        """Return what to write instead of an unknown flag, or ""."""
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        if SYNONYMS.get(name) in known:
            return f"hfkit calls it --{SYNONYMS[name]}"
        guess = nearest(name, known)
        return f"did you mean --{guess}?" if guess else ""
