"""The process: a folder of its own, the networks, a socket, uvicorn, and a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from polarpix.errors import InputError
from polarpix.predictor import load
from polarpix.web.limits import Limits
from polarpix.web.service import named

__all__ = ["PatientProtocol", "end", "open_socket", "run_server"]

CONNECTIONS = 512  # open at once; more are told to come back
GRACE = 3  # seconds for open answers when the server ends


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: no such address, or one that is taken or not allowed.
    """
    if not 0 <= port < 65536:
        raise InputError(f"--port {port}: give a number from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot listen ({error.strerror}): choose another --port or --host") from None


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP with an end to its patience: who begins a request and does not finish its headers is let go."""

    seconds = 30.0
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._set_clock()

    def data_received(self, data: bytes) -> None:
        """The clock runs while headers are on their way, and stands while a request is answered."""
        super().data_received(data)
        self._set_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _set_clock(self) -> None:
        if not self._between_requests():
            self._stop_clock()
        elif self._clock is None:  # more of the same headers win no time
            self._clock = self.loop.call_later(self.seconds, self._let_go)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _let_go(self) -> None:
        self._clock = None
        if self._between_requests() and not self.transport.is_closing():
            self.transport.close()


def run_server(weights: list[str], host: str, port: int, device: str, limits: Limits) -> None:
    """Load the networks and serve them until Ctrl-C or SIGTERM; the temporary folder is gone afterwards.

    Raises:
        InputError: weights that cannot be loaded, or a place that cannot be listened on.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limits say so to the client
    predictors = named([load(path, device) for path in weights])
    listener = open_socket(host, port)
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="polarpix-serve-", ignore_cleanup_errors=True) as name, listener:
        folder = Path(name).resolve()
        tempfile.tempdir = str(folder)  # uploads that are too large for memory go there as well
        try:
            serve_until_stopped(predictors, limits, folder, listener, host)
        except KeyboardInterrupt:
            pass
        finally:
            tempfile.tempdir = None
    print("stopped", flush=True)


def end(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends as Ctrl-C does, so that the folder is cleared."""
    raise KeyboardInterrupt


def serve_until_stopped(
    predictors: dict[str, Any], limits: Limits, folder: Path, listener: socket.socket, host: str
) -> None:
    """Run uvicorn on the socket."""
    from polarpix.web.app import create_app

    app = create_app(predictors, limits, folder)
    PatientProtocol.seconds = limits.upload_seconds
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_level="error",  # what clients send amiss is told to them, not to the terminal
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE,
    )
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"page:     http://{shown}:{port}/\nendpoint: http://{shown}:{port}/docs\nCtrl-C ends it", flush=True)
    if host not in ("127.0.0.1", "::1", "localhost"):
        print("polarpix: warning: everybody who can reach this machine can use the server", file=sys.stderr, flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        app.state.service.worker.close()
