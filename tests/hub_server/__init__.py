"""A small Hub on 127.0.0.1: repositories, commits, LFS uploads to a second origin, card checks, faults on demand."""

import secrets
import threading
from http.server import ThreadingHTTPServer

from hub_server import api, storage
from hub_server.faults import Faults
from hub_server.store import Store
from hub_server.web import Request, handler_of

__all__ = ["HubServer", "Request"]


class HubServer:
    """The Hub and its storage, two origins, in threads of this process.

    Attributes:
        endpoint: for a client's HF_ENDPOINT.
        store: users, repositories and their content; tests may read and change it.
        faults: that are active now.
        log: of all requests, in order.
        leaks: requests that sent a token to the storage, which needs signed URLs only.
        multipart_from: size in bytes from which files are uploaded in parts of this size.
        page: entries per page of a listing.
    """

    def __init__(self):
        self.store, self.faults = Store(), Faults()
        self.log: list[Request] = []
        self.leaks: list[str] = []
        self.secret = secrets.token_bytes(16)
        self.multipart_from, self.page = 1 << 30, 1000
        self._servers = [self._start(api.ROUTES), self._start(storage.ROUTES)]
        hub, files = (server.server_port for server in self._servers)
        self.endpoint = f"http://127.0.0.1:{hub}"
        self.storage = f"http://localhost:{files}"  # another host name, as for the real storage

    def _start(self, routes) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self, routes))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self) -> None:
        """Stop both servers; their addresses then refuse connections."""
        self.faults.heal()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def requests(self, *phases: str) -> list[Request]:
        """Return the requests of these phases, in order."""
        return [request for request in self.log if request.phase in phases]

    def uploaded(self) -> int:
        """Return the bytes received in LFS uploads, complete or not."""
        return sum(request.received for request in self.requests("put", "part"))
