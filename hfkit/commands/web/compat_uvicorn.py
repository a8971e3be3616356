"""The part of uvicorn's implementation that hfkit extends, as of uvicorn 0.54.0, which has no limit for headers.

`test_connections_without_a_request_do_not_block_the_page` fails when upstream changes it.
"""

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Seconds within which a client must send the headers of a request."""


class LimitedProtocol(H11Protocol):
    """Closes a connection that does not send the headers of a request; otherwise a few of them would block all."""

    def connection_made(self, transport) -> None:
        """Start the time limit."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop the time limit while a request is answered, and start it with the next one."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._limit.cancel()
        elif self._limit.cancelled():
            self._limit = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
        self._limit.cancel()
        super().connection_lost(exc)
