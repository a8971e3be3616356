"""Connects the processes of a launch, so that each learns at once if another one gets a signal or ends.

A collective operation waits for a dead process until its timeout, and a launcher sees only its local
processes. Rank 0 accepts a connection from each of the others and forwards messages; a closed connection means that a
process has ended or was killed. A thread does this, whatever the main thread computes or waits for.
"""

import os
import selectors
import signal
import socket
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from hfkit.core.channels import REPLY_SECONDS, Channel, Peer, keep_alive
from hfkit.core.error_file import record_for_launcher
from hfkit.core.interrupts import EXIT_STATUS, ignore_signals, requested
from hfkit.core.signal_watch import end_now

GRACE = 5.0
"""Seconds that a process has to end by itself after another one has failed."""
LONGEST_REASON = 3000  # characters
KILLED = "it was killed (`kill -9`, or by the kernel for lack of memory), or its machine is lost"
OUT_OF_MEMORY = "the kernel killed it for lack of memory"
VMSTAT = Path("/proc/vmstat")


class Peers(threading.Thread):
    """The other processes of a launch, watched from a thread.

    Args:
        me: this process.
        hub: the connection to rank 0; None in rank 0.
        server: accepts the connections of the others, in rank 0.
        token: the secret that they must send.
        speaks: whether this process prints that rank 0 was killed.

    Attributes:
        failed: the process that failed first, as seen by rank 0; None if none has failed.
    """

    def __init__(self, me: Peer, hub: Channel | None, server: socket.socket | None, token: str, speaks: bool):
        super().__init__(name="peers", daemon=True)
        self.me, self.hub, self.server, self.token, self.speaks = me, hub, server, token, speaks
        self.failed: Peer | None = None
        self.has_failed, self.has_signal, self.deadline = threading.Event(), False, float("inf")
        self.kills = oom_kills()
        ours, theirs = socket.socketpair()
        self.outbox, inbox = Channel(ours), Channel(theirs, me)
        self.channels = [inbox, *([hub] if hub else [])]
        self.selector = selectors.DefaultSelector()
        for channel in self.channels:
            self.selector.register(channel.connection, selectors.EVENT_READ, channel)
        if server:
            self.selector.register(server, selectors.EVENT_READ)
        os.register_at_fork(after_in_child=self.close)  # a worker that outlives this process would keep it alive

    # Called by the main thread, and by the thread that watches signals

    def pass_on(self, number: int) -> None:
        """Pass a signal of this process on to the others."""
        self.outbox.send(signal=number)

    def fail(self, why: str, status: int) -> Peer | None:
        """Report that this process failed, and return the process that failed first; None if rank 0 does not answer."""
        self.outbox.send(failed=why[:LONGEST_REASON], status=status)
        self.has_failed.wait(REPLY_SECONDS)
        return self.failed

    def leave(self) -> None:
        """Announce to the others that this process leaves, and stop watching them."""
        self.outbox.send(left=True)
        self.join(REPLY_SECONDS)

    # The thread

    def run(self) -> None:
        """Forward messages until this process or rank 0 leaves; end this process if another has failed and it hangs."""
        while not any(one.has_left for one in self.channels if one.peer in (self.me, self.hub and self.hub.peer)):
            wait = None if self.deadline == float("inf") else max(self.deadline - time.monotonic(), 0)
            for key, _ in self.selector.select(wait):
                if key.fileobj is self.server:
                    self.accept()
                    continue
                messages = key.data.receive()
                for message in messages or []:
                    self.take(key.data, message)
                if messages is None:
                    self.drop(key.data)
            if time.monotonic() > self.deadline:
                self.end()
        self.close()

    def accept(self) -> None:
        """Accept the connection of another process, which must introduce itself."""
        try:
            connection, _ = self.server.accept()  # type: ignore[union-attr]
            keep_alive(connection)
        except OSError:  # the other end has closed the connection
            return
        self.channels.append(channel := Channel(connection))
        self.selector.register(connection, selectors.EVENT_READ, channel)

    def take(self, channel: Channel, message: dict) -> None:
        """Act on a message, and forward it: to rank 0, or from rank 0 to all others."""
        if "token" in message and message["token"] == self.token:
            channel.peer = Peer(**message["peer"])
        if channel.peer is None:
            return
        if self.hub and channel is not self.hub:
            self.hub.send(**message)
        elif "signal" in message and not self.has_signal:
            self.has_signal = True
            self.broadcast(message, channel)
        elif "failed" in message:
            self.settle(replace(channel.peer, why=message["failed"], status=message["status"]))
        if "signal" in message and channel.peer != self.me and not requested():
            os.kill(os.getpid(), message["signal"])
        if "first" in message:
            self.note(Peer(**message["first"]))
        if "left" in message:
            channel.has_left = True
            if channel.peer == self.me and not self.hub:
                self.broadcast(message, channel)

    def drop(self, channel: Channel) -> None:
        """Treat a closed connection as the end of a process that gave no reason."""
        self.selector.unregister(channel.connection)
        self.channels.remove(channel)
        channel.connection.close()
        if channel.peer and not channel.has_left and channel.peer != self.me:
            why = OUT_OF_MEMORY if channel.peer.host == self.me.host and oom_kills() > self.kills else KILLED
            ended = replace(channel.peer, why=why, is_silent=True)
            self.note(ended) if self.hub else self.settle(ended)

    def settle(self, peer: Peer) -> None:
        """In rank 0: record this process as the one that failed first, unless there is one, and notify all others."""
        if self.failed is None:
            self.broadcast({"first": asdict(peer)}, None)  # before `fail` returns, after which this process may end
            self.note(peer)

    def broadcast(self, message: dict, source: Channel | None) -> None:
        """Send a message to all others except its source."""
        for one in self.channels:
            if one.peer and one.peer != self.me and one is not source:
                one.send(**message)

    def note(self, peer: Peer) -> None:
        """Record which process failed first; this one then has `GRACE` seconds to end by itself."""
        if self.failed is not None:
            return
        self.failed = peer
        if peer.rank != self.me.rank:
            ignore_signals()  # the launcher's, which ends all processes as soon as one has failed
            self.deadline = time.monotonic() + GRACE
        self.has_failed.set()

    def end(self) -> None:
        """End this process, which waits for a failed one; rank 0 prints why."""
        number = requested()
        if not number:
            record_for_launcher(str(self.failed), follows=True)
        if not number and self.speaks_of(self.failed):
            os.write(2, f"hfkit: {self.failed}\n".encode())  # `print` may wait for the main thread
        end_now(EXIT_STATUS[signal.Signals(number)] if number else self.failed.status if self.failed else 1)

    def speaks_of(self, peer: Peer | None) -> bool:
        """Return whether this process reports how another one ended."""
        return self.me.rank == 0 or bool(peer and peer.rank == 0 and peer.is_silent and self.speaks)

    def close(self) -> None:
        """Close all connections."""
        self.selector.close()
        for one in [*self.channels, self.outbox]:
            one.connection.close()
        if self.server:
            self.server.close()


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory; 0 if it does not report that."""
    lines = VMSTAT.read_text(encoding="utf-8").splitlines() if VMSTAT.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
