"""What `polarpix serve` does. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

from importlib.util import find_spec

from polarpix.errors import InputError

__all__ = ["serve"]


def serve(
    weights: list[str],
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    max_megabytes: float = 20.0,
    max_pixels: int = 16_000_000,
    max_boxes: int = 100,
    queue: int = 32,
    timeout: float = 60.0,
    upload_timeout: float = 30.0,
) -> int:
    """Serve networks to this machine: a web page, and a JSON endpoint with its OpenAPI page. Ctrl-C ends it.

    Args:
        weights: weights files, run folders, exported files or models' names, one or several.
        host: the address to listen on; 127.0.0.1 is this machine only, 0.0.0.0 everybody who can reach it.
        port: 0 takes a free one.
        device: auto, cpu, cuda, cuda:1, ...
        max_megabytes: of one request.
        max_pixels: of one picture.
        max_boxes: in one request.
        queue: requests that may wait for the network; more are told to come back.
        timeout: seconds for one answer.
        upload_timeout: seconds for a client to send its request.
    """
    for name in ("gradio", "fastapi", "uvicorn", "python_multipart", "fastapi_swagger"):
        if find_spec(name) is None:  # not imported yet: gradio makes folders where it is told to at that moment
            raise InputError(f"serve needs {name}, which is not installed: pip install 'polarpix[serve]'")
    from polarpix.web.limits import Limits
    from polarpix.web.server import run_server

    limits = Limits(max_megabytes, max_pixels, max_boxes, queue, timeout, upload_timeout)
    run_server(weights, host, port, device, limits)
    return 0
