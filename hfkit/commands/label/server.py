"""Serves an application from a thread, so that the main thread waits for signals."""

import os
import socket
import threading

import uvicorn
from fastapi import FastAPI

from hfkit.core.errors import HfkitError


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        HfkitError: the port is in use, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        remedy = "choose another one, or --port 0 for a free one"
        raise HfkitError(f"cannot listen on {host}, port {port} ({os.strerror(error.errno or 0)}): {remedy}") from error
    return bound


class PageServer:
    """Serves an application from a thread; use it in a `with` statement.

    Args:
        bound: the socket; it is closed at the end.
    """

    def __init__(self, app: FastAPI, bound: socket.socket):
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=500,
            timeout_graceful_shutdown=2,
        )
        self._server, self._bound = uvicorn.Server(settings), bound
        self._ended = threading.Event()  # Thread.join marks a thread as ended if a signal interrupts it (Python < 3.13)

    def _run(self) -> None:
        try:
            self._server.run([self._bound])
        finally:
            self._ended.set()

    def __enter__(self) -> "PageServer":
        threading.Thread(target=self._run, name="page", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        if self._ended.wait(5):
            self._bound.close()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most, and return whether the server still runs."""
        return not self._ended.wait(seconds)


def address_of(bound: socket.socket) -> str:
    """Return the URL of a page."""
    host, port = bound.getsockname()[:2]
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
