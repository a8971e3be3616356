"""The text of a response while it is generated: ends it at a stop text, and strips white space around it."""

from collections.abc import Callable, Sequence


class ResponseText:
    """Collects the pieces of a response and passes on those that belong to it.

    The start of a possible stop text, and white space at the end, are kept back until the next piece decides.

    Args:
        stop_texts: texts that end the response; they are not part of it.
        strips: whether to strip white space around the response.
        write: called with each piece.
    """

    def __init__(self, stop_texts: Sequence[str], strips: bool, write: Callable[[str], None]):
        self.stop_texts, self.strips, self.write = stop_texts, strips, write
        self.text, self.pending, self.is_stopped = "", "", False

    def add(self, piece: str) -> None:
        """Add the next piece."""
        if self.is_stopped:
            return
        self.pending += piece
        found = [at for at in (self.pending.find(stop) for stop in self.stop_texts) if at >= 0]
        if found:
            self.pending, self.is_stopped = self.pending[: min(found)], True
            return
        cut = len(self.pending) - max((overlap(self.pending, stop) for stop in self.stop_texts), default=0)
        self._pass_on(len(self.pending[:cut].rstrip()) if self.strips else cut)

    def end(self) -> None:
        """Pass on what was kept back."""
        self._pass_on(len(self.pending.rstrip() if self.strips else self.pending))

    def _pass_on(self, cut: int) -> None:
        piece, self.pending = self.pending[:cut], self.pending[cut:]
        piece = piece.lstrip() if self.strips and not self.text else piece
        self.text += piece
        if piece:
            self.write(piece)


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text with which a longer stop text begins."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
