"""The passes of the collapsed form over a map as compiled loops for the CPU: :mod:`polarpix.psa.plain` in other words.

``loops.c`` reads a map once a pass and keeps a tile of it in the cache, where torch's operations read it again for
every sum. It is compiled with the machine's C compiler when it is first needed (a few seconds) and kept in torch's
cache folder; where there is no compiler, nothing is lost but the speed. The loops share torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polarpix.psa.plain import State, empty_like, softmax_gradient

__all__ = [
    "describe",
    "lay_as",
    "library",
    "read",
    "read_backward",
    "takes",
    "why_not",
    "write",
    "write_backward",
]

SOURCE = Path(__file__).with_name("whole.c")  # which includes the others
SOURCES = (SOURCE, *(Path(__file__).with_name(name) for name in ("loops.c", "lanes.c", "pairs.c")))
FLAGS = ("-std=c11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
DTYPES = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
TILE = 1024  # most pixels of a tile, as in loops.c
# Numbers of a tile with all its channels. Channels together, 128 KiB: two or three maps' tiles stay in the cache.
# Pixels together, 512 KiB: each channel has a run of its own, and short runs cost more than the cache saves.
TILE_NUMBERS = {True: 1 << 15, False: 1 << 17}
LEAST_TILES = 16  # so that there is work for several threads


def takes(x: Tensor) -> bool:
    """Whether the loops take a map: float32 or bfloat16 on the CPU, dense in one of the two memory layouts.

    No subclass of tensors, as fake ones have no numbers.
    """
    return (
        x.is_cpu
        and x.dtype in DTYPES
        and x.numel() > 0
        and type(x) in (Tensor, torch.nn.Parameter)
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and library(x.dtype) is not None
    )


@cache
def why_not() -> str:
    """Why there are no loops on this machine; empty if there are."""
    try:
        for dtype in DTYPES:
            _load(dtype)
    except (OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())
    return ""


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled loops of a dtype, or None."""
    return None if why_not() else _load(dtype)


@cache
def _load(dtype: torch.dtype) -> ctypes.CDLL:
    """Compile unless that was done on this machine, and load."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler found: install gcc or clang for faster attention on the CPU")
    flags = (*FLAGS, *DTYPES[dtype])
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    sources = [source.read_bytes() for source in SOURCES]
    key = hashlib.sha256(b"\0".join([*sources, version, _processor(), *map(str.encode, flags)])).hexdigest()
    path = _folder() / f"psa-{key[:20]}.so"
    if not path.is_file():
        _compile(compiler, flags, path)
    # All symbols now: those of OpenMP must be torch's own, for one set of threads, and their lack must show here.
    found = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    for name, kinds in SIGNATURES.items():
        function = getattr(found, name)
        function.restype = None
        function.argtypes = [KINDS[kind] for kind in kinds]
    return found


def _folder() -> Path:
    """Where compiled loops are kept; only the user's own, as code is loaded from it."""
    folder = Path(torch.hub.get_dir()).parent / "polarpix"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_mode & 0o022 or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise OSError(f"{folder}: others can write there: make it your own, chmod 700")
    return folder


def _processor() -> bytes:
    """What the compiler's "native" depends on; homes are shared between machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    named = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    return "\n".join([platform.machine(), *named]).encode()


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        parts, built = Path(folder) / "loops.o", Path(folder) / "loops.so"
        for command in (
            [compiler, *flags, "-c", str(SOURCE), "-o", str(parts)],
            [compiler, "-shared", str(parts), "-o", str(built), "-lm"],  # no OpenMP: torch has brought one
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise OSError(f"{compiler} cannot compile {SOURCE.name}: {done.stderr.strip().splitlines()[:1]}")
        built.replace(path)


# m: the map's description, p: a tensor or None, f: a number, i: yes or no
KINDS = {"m": ctypes.c_void_p, "p": ctypes.c_void_p, "f": ctypes.c_float, "i": ctypes.c_int}
SIGNATURES = {
    "psa_rows": "mpppp",
    "psa_read": "mppppppp",
    "psa_write": "mpppppifp",
    "psa_write_backward": "mpppppppifppppp",
    "psa_read_backward": "mpppppppppp",
    "psa_sizes": "mip",
    "psa_forward": "mppiifppip",
    "psa_backward": "mpppiifpppp",
}


@lru_cache(maxsize=1024)
def describe(shape: torch.Size, last: bool, threads: int) -> tuple[Any, int]:
    """The C side's description of maps [B, C, H, W] that lie with their channels last or not, and their tiles."""
    B, C, H, W = shape
    P = H * W
    tile = max(TILE_NUMBERS[last] // C // 64 * 64, 64)
    tile = min(tile, max(B * P // LEAST_TILES // 64 * 64, 64), TILE, P)
    tiles = -(-P // tile)
    return (ctypes.c_int64 * 7)(B, C, P, int(last), tile, tiles, threads), B * tiles


def lay_as(x: Tensor, d: Tensor) -> Tensor:
    """A map as x lies."""
    return d.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


class _Call:
    """The loops on maps of the shape, layout and dtype of x."""

    def __init__(self, x: Tensor) -> None:
        self.map, self.tiles = describe(x.shape, not x.is_contiguous(), torch.get_num_threads())
        self.library = library(x.dtype)

    def __call__(self, name: str, *arguments: Tensor | float | None) -> None:
        if any(isinstance(one, Tensor) and not one.is_cpu for one in arguments):
            raise RuntimeError("the map is on the CPU, some weights are not: move the block to the CPU")
        at = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
        getattr(self.library, name)(self.map, *at)


def _vector(v: Tensor | None) -> Tensor | None:
    return None if v is None else v.float().contiguous()


def _empty(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _gates(x: Tensor, g: Tensor | None, scale: float) -> Tensor:
    g = torch.ones(x.shape[:2]) if g is None else g.float().contiguous()
    return g if scale == 1 else g * scale


def read(x: Tensor, W_q: Tensor | None, spatial: bool) -> tuple[Tensor | None, Tensor | None, State]:
    """c [B, C] where there is a channel query, m [B, C] where there is a spatial branch; what the backward needs."""
    B, C = x.shape[:2]
    call = _Call(x)
    w = None if W_q is None else _vector(W_q.flatten())
    r = None if w is None else _empty(x, B, x.shape[2] * x.shape[3])
    stat, c, m = _empty(x, B, 2), _empty(x, B, C), _empty(x, B, C)
    call("psa_read", x, w, r, stat, c, m, _empty(x, call.tiles, 2 * C + 2))
    return None if w is None else c, m if spatial else None, (r, stat, c)


def read_backward(
    x: Tensor, W_q: Tensor | None, state: State, dc: Tensor | None, dm: Tensor | None, dx: Tensor | None, weighs: bool
) -> Tensor | None:
    """The gradient of the query's weight if it ``weighs``; dx, which came from the write, is added to in place."""
    C = x.shape[1]
    call = _Call(x)
    dm_P = None if dm is None else _vector(dm / (x.shape[2] * x.shape[3]))
    if W_q is None or dc is None:
        if dx is not None and dm_P is not None:
            call("psa_read_backward", x, *(None,) * 5, dm_P, dx, None, None)
        return None
    r, stat, c = state
    dc = _vector(dc)
    dot = torch.linalg.vecdot(dc, c)
    dW_q = _empty(x, C)
    w = _vector(W_q.flatten())
    call("psa_read_backward", x, w, r, stat, dc, dot, dm_P, dx, dW_q, _empty(x, call.tiles, C))
    return dW_q if weighs else None


def write(
    x: Tensor,
    g: Tensor | None,
    u: Tensor | None,
    beta: Tensor | None,
    e: Tensor | None,
    form: str,
    layout: str,
    scale: float,
) -> tuple[Tensor, State]:
    """The attended map; of a spatial branch also the gate and, in the released form, the softmax in it."""
    out = empty_like(x)
    call = _Call(x)
    add = layout == "parallel" and g is not None and u is not None
    gates = _gates(x, g, scale if add else 1.0)
    u, beta = _vector(u), _vector(beta)
    s = softmax = None
    if e is not None:
        s = torch.sigmoid(e.float())
    elif u is not None:
        s = _empty(x, x.shape[0], 1, x.shape[2] * x.shape[3])
        if form == "released":
            call("psa_rows", x, None, u, s)
            softmax = torch.softmax(s, dim=2)
            s, u = torch.sigmoid(softmax), None
    call("psa_write", x, gates, u, beta, s, int(add), scale, out)
    return out, (s, softmax)


def write_backward(
    x: Tensor,
    d: Tensor,
    g: Tensor | None,
    u: Tensor | None,
    state: State,
    layout: str,
    scale: float,
    maps: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """dx so far, unless ``maps`` is off, dg [B, C], du [B, C], dbeta [B] and de [B, 1, P]."""
    B, C = x.shape[:2]
    call = _Call(x)
    d = lay_as(x, d)
    s, softmax = state
    add = layout == "parallel" and g is not None and u is not None
    gates = _gates(x, g, scale if add else 1.0)
    u = _vector(u)
    v = de = None
    if s is not None:
        v = gates if g is not None and not add else torch.ones(B, C)
        de = torch.empty_like(s)
        if u is None or softmax is not None:
            call("psa_rows", x, d, v, de)
            de *= scale * s * (1 - s)
            de = de if softmax is None else softmax_gradient(softmax, de)
            v = None
    dx = empty_like(x) if maps else None
    dg, du, dbeta = _empty(x, B, C), _empty(x, B, C), _empty(x, B)
    part = _empty(x, call.tiles, 2 * C + 1)
    call("psa_write_backward", x, d, gates, u, s, v, de, int(add), scale, dx, dg, du, dbeta, part)
    dg_ = None if g is None else dg.to(g.dtype)
    return (dx, dg_, None, None, de) if u is None else (dx, dg_, du, dbeta, de)
