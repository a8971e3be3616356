"""Faults on demand: in which phase of a push or pull, how, and how often."""

import threading
from dataclasses import dataclass

KINDS = ("cut", "lost", "slow", "hang")


@dataclass
class Fault:
    """One kind of fault.

    Attributes:
        how: a status to answer with, without effect; "cut": the connection breaks during the request; "lost": the
            request is executed, but its answer is lost; "slow": it takes `seconds`; "hang": it waits for `heal`.
        phases: of the requests that fail, as the routes name them; by default all.
        every: n; the n-th of these requests fails, the 2n-th, and so on.
        times: maximum number of failures.
        skip: number of requests that pass before.
    """

    how: int | str
    phases: tuple[str, ...] = ()
    every: int = 1
    times: int | None = None
    skip: int = 0
    seconds: float = 0.5
    seen: int = 0
    done: int = 0

    def applies_to(self, phase: str) -> bool:
        """Return whether the present request fails, and count it."""
        if (self.phases and phase not in self.phases) or self.done == self.times:
            return False
        self.seen += 1
        strikes = self.seen > self.skip and (self.seen - self.skip) % self.every == 0
        self.done += strikes
        return strikes


class Faults:
    """The active faults."""

    def __init__(self):
        self.now: list[Fault] = []
        self.healed = threading.Event()
        self.hanging = threading.Event()
        self._lock = threading.Lock()

    def set(self, how: int | str, *phases: str, **options) -> None:
        """Add a fault, such as `set("cut", "put", times=1)` or `set(500, every=3)`."""
        assert isinstance(how, int) or how in KINDS, how
        self.healed.clear()
        self.hanging.clear()
        self.now.append(Fault(how, phases, **options))

    def heal(self) -> None:
        """End all faults; requests that hang are released."""
        self.now = []
        self.healed.set()

    def of(self, phase: str) -> Fault | None:
        """Return the fault of the present request, or None."""
        with self._lock:
            struck = [fault for fault in self.now if fault.applies_to(phase)]
        return struck[0] if struck else None
