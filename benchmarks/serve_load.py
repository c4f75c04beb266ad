"""Load `polarpix serve` with 10,000 mixed requests of 32 clients: good, bad, slow, huge, cut off; see what it answers.

    python benchmarks/serve_load.py OUT.json [REQUESTS [CLIENTS]]

Starts a server of its own on loopback with a tiny untrained network of each task, and writes to OUT.json what every
kind of request was answered with, latencies, and the server's memory before, during and after.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polarpix.engine.artifact import save_artifact, write_text
from polarpix.engine.evaluate import conditions
from polarpix.pages import make_run
from polarpix.pose.model import build_pose_model
from polarpix.seg.model import build_seg_model
from polarpix.types import ClassTable, KeypointSchema

SEED = 0
BACKBONE = {"name": "test_resnet", "weights": None, "attention": "psa_p"}
OPTIONS = {
    "max-megabytes": 1,
    "max-pixels": 1_000_000,
    "max-boxes": 10,
    "queue": 24,
    "timeout": 60,
    "upload-timeout": 4,
}
LIMIT_BYTES = 1_000_000
WARM_UP = 200  # good requests before memory is first read: what is loaded and compiled once
PATIENCE = 120.0  # seconds for one request with its repetitions; a longer one counts as hung
RETRY, TRIES = 0.25, 100  # seconds before a client that was told to come back does so, and how often
LIMIT_SECONDS = 540.0  # for all of them
FLOOR_MB = 150.0  # growth of memory that is taken for none: allocators keep some


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    Args:
        weight: of its part among all.
        expected: statuses that are right; 0 is a connection that ends without an answer.
        make: gives the bytes to send.
        pause: seconds before the last byte, as slow clients are; longer than the server waits if negative.
        leave: hang up before the answer.
    """

    weight: int
    expected: tuple[int, ...]
    make: Callable[[random.Random], bytes]
    pause: float = 0.0
    leave: bool = False


def picture(size: tuple[int, int], form: str = "JPEG") -> bytes:
    """Noise as a file."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of some kilobytes that promises 50000 x 50000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(4_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GOOD = picture((80, 60))
BOMB = bomb()


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: loopback\r\nConnection: close\r\n\r\n".encode()


def post(data: bytes, fields: dict[str, str] | None = None, path: str = "/api/predict", name: str = "image") -> bytes:
    """A form with a file."""
    line, parts = b"--part\r\n", []
    for key, value in (fields or {}).items():
        parts.append(line + f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode())
    parts.append(line + f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'.encode() + data)
    body = b"".join(parts) + b"\r\n--part--\r\n"
    return head(path, len(body)) + body


def head(path: str, length: int | None) -> bytes:
    """The headers of a form of so many bytes, or of one that comes in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", "Host: loopback", "Connection: close", size]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=part", "", ""]).encode()


def chunked(size: int) -> bytes:
    """A file of zeros without announced length."""
    begin = b'--part\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    parts = [begin, *[bytes(65_536)] * (size // 65_536 + 1)]
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head("/api/predict", None) + pieces + b"0\r\n\r\n"


def cut(data: bytes) -> Callable[[random.Random], bytes]:
    """A file that ends too early."""
    return lambda rng: post(data[: rng.randrange(200, len(data) - 100)])


def noise(rng: random.Random) -> bytes:
    """Bytes that are no HTTP."""
    return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200))) + b"\r\n\r\n"


BUSY = 503  # the line is full
KINDS = {
    "pose": Kind(26, (200,), lambda rng: post(GOOD, {"boxes": "[[5, 5, 40, 40], [20, 10, 50, 45]]"})),
    "seg": Kind(14, (200,), lambda rng: post(GOOD, {"model": "load-seg"})),
    "overlay": Kind(4, (200,), lambda rng: post(GOOD, path="/api/overlay")),
    "label": Kind(4, (200,), lambda rng: post(GOOD, {"model": "load-seg"}, path="/api/label")),
    "health": Kind(8, (200,), lambda rng: get("/api/health")),
    "models": Kind(2, (200,), lambda rng: get("/api/models")),
    "page": Kind(1, (200,), lambda rng: get("/")),
    "not an image": Kind(4, (415,), lambda rng: post(rng.randbytes(500))),
    "cut off": Kind(5, (400, 415), cut(GOOD)),
    "bomb": Kind(4, (413,), lambda rng: post(BOMB)),
    "wrong field": Kind(4, (422,), lambda rng: post(GOOD, name="photo")),
    "unknown model": Kind(3, (404,), lambda rng: post(GOOD, {"model": "nobody"})),
    "bad boxes": Kind(4, (422,), lambda rng: post(GOOD, {"boxes": rng.choice(["[[1, 2", "[[0, 0, 0, 0]]", "{}"])})),
    "many boxes": Kind(3, (413,), lambda rng: post(GOOD, {"boxes": json.dumps([[1, 2, 30, 40]] * 11)})),
    "other path": Kind(3, (404,), lambda rng: get(rng.choice(["/admin", "/api/x", "/gradio_api/file=http://a/b"]))),
    "no HTTP": Kind(2, (400, 0), noise),
    "announced huge": Kind(3, (413,), lambda rng: head("/api/predict", 10**10)),
    "huge": Kind(1, (413,), lambda rng: head("/api/predict", 3_000_000) + bytes(3_000_000)),
    "huge in chunks": Kind(1, (413,), lambda rng: chunked(2 * LIMIT_BYTES)),
    "slow": Kind(2, (200,), lambda rng: post(GOOD), pause=0.5),
    "too slow": Kind(1, (408,), lambda rng: post(GOOD), pause=-1.0),
    "slow headers": Kind(1, (0,), lambda rng: b"POST /api/predict HTTP/1.1\r\nHost: lo\r\nX: ", pause=-1.0),
    "hangs up": Kind(3, (0,), lambda rng: post(GOOD), leave=True),
}


async def exchange(kind: Kind, data: bytes, port: int) -> tuple[int, bytes]:
    """Send one request in the manner of its kind; gives the status, 0 for none, and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        sent, last = (data, b"") if not kind.pause else (data[:-1], data[-1:])
        writer.write(sent)
        await writer.drain()
        if kind.leave:
            return 0, b""
        if kind.pause > 0:
            await asyncio.sleep(kind.pause)
            writer.write(last)
            await writer.drain()
        first = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", first)
        rest = await (reader.readexactly(int(length[1])) if length else reader.read(-1))
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        writer.transport.abort()
    status = re.match(rb"HTTP/1\.1 (\d{3})", first)
    return (int(status[1]) if status else 0), rest


async def patient(kind: Kind, data: bytes, port: int) -> tuple[int, bytes, int]:
    """Send a request again, a moment later, when the server is busy; status, body and how often it was."""
    for times in range(TRIES):
        status, body = await exchange(kind, data, port)
        if status != BUSY or not is_error_line(body):
            return status, body, times
        await asyncio.sleep(RETRY)
    return status, body, TRIES


@dataclass
class Tally:
    """What came back."""

    statuses: defaultdict[str, Counter[int]]
    busy: Counter[str]  # how often clients were told to come back
    seconds: defaultdict[str, list[float]]
    wrong: list[str]

    def note(self, name: str, status: int, body: bytes, times: int, seconds: float) -> None:
        """Count one answer, and keep it if it is not a right one."""
        self.statuses[name][status] += 1
        self.busy[name] += times
        self.seconds[name].append(seconds)
        plain = status in (0, 200) or name == "no HTTP" or is_error_line(body)
        if (status not in KINDS[name].expected or not plain) and len(self.wrong) < 20:
            self.wrong.append(f"{name}: {status} {body[:200]!r}")


def is_error_line(body: bytes) -> bool:
    """Whether a body is one line of JSON with an error and no traceback."""
    try:
        page = json.loads(body)
    except ValueError:
        return False
    return set(page) == {"error"} and "\n" not in page["error"] and "Traceback" not in page["error"]


def memory(process: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


async def load(port: int, process: int, count: int, clients: int) -> tuple[Tally, dict[str, float]]:
    """All requests, in an order drawn by the seed, and the memory around them."""
    rng = random.Random(SEED)
    tally = Tally(defaultdict(Counter), Counter(), defaultdict(list), [])
    good = [
        name
        for name, kind in KINDS.items()
        if kind.expected == (200,) and name not in ("health", "models", "page", "slow")
    ]
    for i in range(WARM_UP):
        status, _ = await exchange(KINDS[good[i % len(good)]], KINDS[good[i % len(good)]].make(rng), port)
        assert status == 200, f"warming up: {good[i % len(good)]} {status}"
    found = {"before": memory(process), "highest": 0.0}
    names = rng.choices(list(KINDS), [kind.weight for kind in KINDS.values()], k=count)
    left = iter(enumerate(names))
    end = time.monotonic() + LIMIT_SECONDS

    async def client() -> None:
        for number, name in left:
            if time.monotonic() > end:
                return
            data = KINDS[name].make(random.Random(SEED + number))
            start = time.monotonic()
            try:
                status, body, times = await asyncio.wait_for(patient(KINDS[name], data, port), PATIENCE)
            except TimeoutError:
                status, body, times = -1, b"hung", 0
            tally.note(name, status, body, times, time.monotonic() - start)
            if number % 100 == 0:
                found["highest"] = max(found["highest"], memory(process))
            if number % 1000 == 0:
                print(f"{number} of {count}, {memory(process):.0f} MB", flush=True)

    await asyncio.gather(*(client() for _ in range(clients)))
    for i in range(20):  # what was still in line is done when these are
        status, _ = await exchange(KINDS["pose"], KINDS["pose"].make(rng), port)
        assert status == 200, f"afterwards: {i} {status}"
    found["after"] = memory(process)
    return tally, found


def write_networks(folder: Path) -> list[str]:
    """A tiny untrained network of each task."""
    size = {"head": "deconv", "head_channels": [8, 8, 8], "input_size": [64, 64]}
    pose = make_run({"task": "pose", "name": "load-pose", "model": {"backbone": BACKBONE, **size}})
    parts = {"aspp_channels": 8, "low_channels": 8}
    seg = make_run(
        {"task": "seg", "name": "load-seg", "model": {"backbone": {**BACKBONE, "output_stride": 32}, **parts}}
    )
    schema = KeypointSchema(("left_eye", "right_eye", "nose"), ((0, 1),), ((0, 1), (1, 2)), (0.05,) * 3, "none")
    classes = ClassTable(("background", "leaf", "stem"), ((0, 0, 0), (0, 200, 0), (200, 120, 0)))
    files = []
    for run, network, labels in (
        (pose, build_pose_model(pose.model, 3), schema),  # type: ignore[arg-type]  # the task says which run it is
        (seg, build_seg_model(seg.model, 3), classes),  # type: ignore[arg-type]  # as above
    ):
        files.append(str(folder / f"{run.name}.safetensors"))
        save_artifact(Path(files[-1]), network.state_dict(), run, labels, {})
    return files


def summary(tally: Tally) -> dict[str, Any]:
    """Counts by kind and status, and seconds until the answer."""
    rows = {}
    for name, kind in KINDS.items():
        times = np.array(tally.seconds[name] or [np.nan])
        rows[name] = {
            "requests": len(tally.seconds[name]),
            "statuses": {str(status): number for status, number in sorted(tally.statuses[name].items())},
            "expected": list(kind.expected),
            "told_to_come_back": tally.busy[name],
            "median_seconds": round(float(np.median(times)), 4),
            "p99_seconds": round(float(np.quantile(times, 0.99)), 4),
        }
    return rows


def main() -> None:
    out = Path(sys.argv[1])
    count, clients = (int(word) for word in (sys.argv[2:] + ["10000", "32"][len(sys.argv) - 2 :])[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = [word for key, value in OPTIONS.items() for word in (f"--{key}", str(value))]
        command = ["-m", "polarpix", "serve", *write_networks(folder), "--port", "0", "--device", "cpu", *options]
        with (
            (folder / "log").open("w+") as log,
            subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True) as server,
        ):
            assert server.stdout is not None
            address = re.search(r":(\d+)/", server.stdout.readline())
            assert address, (folder / "log").read_text()
            started = time.monotonic()
            try:
                tally, found = asyncio.run(load(int(address[1]), server.pid, count, clients))
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
            seconds = time.monotonic() - started
            log.seek(0)
            lines = log.read().splitlines()
    done = sum(sum(counts.values()) for counts in tally.statuses.values())
    grown = found["after"] - found["before"]
    held = {
        "all requests were sent": done == count,
        "every answer was a right one": not tally.wrong,
        "no request hung": not any(counts[-1] for counts in tally.statuses.values()),
        "memory came back": grown <= FLOOR_MB,
        "the server ended with status 0": server.returncode == 0,
        "nothing was logged": not lines,
    }
    record = {
        "name": "serve_load",
        "command": " ".join(["python", *sys.argv]),
        "seed": SEED,
        "requests": count,
        "clients": clients,
        "seconds": round(seconds, 1),
        "options": OPTIONS,
        "memory_mb": {key: round(value, 1) for key, value in found.items()} | {"allowed_growth": FLOOR_MB},
        "kinds": summary(tally),
        "wrong": tally.wrong,
        "logged": lines[-20:],
        "held": held,
        "conditions": conditions() | {name: version(name) for name in ("gradio", "fastapi", "uvicorn")},
    }
    write_text(out, json.dumps(record, indent=2) + "\n")
    for key, value in record["kinds"].items():
        told, median = value["told_to_come_back"], value["median_seconds"]
        print(f"{key:<16}{value['requests']:>6}  {value['statuses']}  busy {told}  median {median:.3f} s")
    print(f"memory {found['before']:.0f} -> {found['after']:.0f} MB (highest {found['highest']:.0f}); {seconds:.0f} s")
    for line, true in held.items():
        print(f"{'yes' if true else 'NO '}  {line}")
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
