"""Connections between the processes of a launch: they carry messages, one JSON object per line."""

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

REPLY_SECONDS = 3.0
"""Seconds to wait for an answer."""
MESSAGE_BYTES = 1 << 16
"""The longest message."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that no longer answers counts as lost after 30 seconds; macOS lacks the first option."""


@dataclass(frozen=True)
class Peer:
    """A process of the launch, and how it failed.

    Attributes:
        why: the reason that it sent, or an assumed one.
        status: exit status of the other processes.
        is_silent: whether it ended without sending a reason.
    """

    rank: int
    host: str
    pid: int
    why: str = ""
    status: int = 1
    is_silent: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid}) ended: {self.why}"


class Channel:
    """A connection that carries messages, a JSON object per line.

    Attributes:
        peer: the process at the other end; None until it has introduced itself.
        has_left: whether it has announced that it leaves.
    """

    def __init__(self, connection: socket.socket, peer: Peer | None = None):
        connection.settimeout(REPLY_SECONDS)
        self.connection, self.peer, self.has_left, self.unread = connection, peer, False, b""

    def send(self, **message: Any) -> None:
        """Send a message; drop it if it cannot be sent, since the connection is then closed."""
        with suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict] | None:
        """Return the messages received; None if the connection is closed or carries anything else."""
        try:
            data = self.connection.recv(MESSAGE_BYTES)
            *lines, self.unread = (self.unread + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        is_sound = len(self.unread) < MESSAGE_BYTES and all(isinstance(one, dict) for one in messages)
        return messages if data and is_sound else None


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel check that the machine at the other end still answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect_to(addresses: Sequence[str], port: int) -> socket.socket:
    """Connect to the first address of a machine that answers.

    Raises:
        OSError: no address answers.
    """
    for address in addresses:
        with suppress(OSError):
            connection = socket.create_connection((address, port), timeout=10)
            keep_alive(connection)
            return connection
    raise ConnectionError(f"no answer from {' or '.join(addresses)}, port {port}")
