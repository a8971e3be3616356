"""Serves an application from a thread, so that the main thread waits for signals."""

import os
import socket
import threading

import uvicorn
from fastapi import FastAPI

from hfkit.commands.web.compat_uvicorn import LimitedProtocol
from hfkit.core.errors import HfkitError, reason


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; it does not listen before the server runs.

    Raises:
        HfkitError: the port is in use, or the address is not this machine's.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise cannot_listen(host, port, error) from error
    return bound


def cannot_listen(host: str, port: int, error: OSError) -> HfkitError:
    """Return the error for an address that cannot be used."""
    fault = os.strerror(error.errno) if error.errno and error.errno > 0 else reason(error)  # a name has another
    remedy = "choose another one, or --port 0 for a free one"
    return HfkitError(f"cannot listen on {host}, port {port} ({fault}): {remedy}")


class ServerThread:
    """Serves an application from a thread; use it in a `with` statement.

    Args:
        bound: the socket; it is closed at the end.

    Raises:
        HfkitError: another program has listened on the port since the socket was bound.
    """

    def __init__(self, app: FastAPI, bound: socket.socket):
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level="error",
            lifespan="off",
            loop="asyncio",
            http=LimitedProtocol,
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=500,
            timeout_graceful_shutdown=2,
        )
        self._server, self._bound = uvicorn.Server(settings), bound
        self._error: OSError | None = None
        self._ended = threading.Event()  # Thread.join marks a thread as ended if a signal interrupts it (Python < 3.13)

    def _run(self) -> None:
        try:
            self._server.run([self._bound])
        except OSError as error:
            self._error = error
        finally:
            self._ended.set()

    def __enter__(self) -> "ServerThread":
        threading.Thread(target=self._run, name="http", daemon=True).start()
        while not (self._server.started or self._ended.wait(0.01)):
            pass
        if self._error is not None:
            raise cannot_listen(*self._bound.getsockname()[:2], self._error) from self._error
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
