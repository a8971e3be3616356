"""Limits the connections of tests to Unix sockets and servers on 127.0.0.1."""

LOCAL_PORTS: set[int] = set()
"""The ports of these servers."""


def is_local(address: object) -> bool:
    """Return whether a socket address is that of such a server."""
    return isinstance(address, tuple) and address[0] == "127.0.0.1" and address[1] in LOCAL_PORTS
