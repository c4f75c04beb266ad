"""`polarpix bench kernels --static`: the kernels judged without a GPU, compiled for cards that need not be here.

Times are a prediction from published rates (:mod:`polarpix.bench.kernels_time`), not a measurement.
"""

from __future__ import annotations

import time

import torch

from polarpix.bench.block_settings import parse_shapes
from polarpix.bench.kernels_compile import compile_all, widest
from polarpix.bench.kernels_jobs import GRID, ITEMSIZE, ODD, fingerprint
from polarpix.bench.kernels_page import report_sections
from polarpix.bench.kernels_time import wholes
from polarpix.bench.record import Record, command_line, finished, machine, markdown, record_path, write_record
from polarpix.errors import InputError

__all__ = ["kernels"]


def kernels(static: bool = False, maps: str = "", json: str = "", workers: int = 1) -> int:
    """Compile the kernels for cards that need not be here, and report what the compiler made of them.

    Args:
        static: the only way there is: nothing is run.
        maps: "32,64,64,48 8,512,65,65"; by default those of the committed report.
        json: file for the record; its Markdown goes beside it.
        workers: processes that compile. What Triton's cache has is not compiled again.

    Raises:
        InputError: without ``static``, with fewer than one worker, or maps that there are no kernels for.
    """
    if not static:
        raise InputError("bench kernels compiles and runs nothing: add --static; 'polarpix bench block' measures")
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    chosen = parse_shapes(maps, "maps")
    grid = dict.fromkeys(ITEMSIZE, chosen) if chosen else GRID
    for shape in chosen:
        if shape[1] % 2:
            raise InputError(f"--maps holds {','.join(map(str, shape))}: polarized self-attention needs even channels")
    path = record_path(json)
    started = time.perf_counter()
    told = machine(torch.device("cpu"))
    found = compile_all(grid, workers=workers)
    pairs = [pair for pair in ODD if set(pair) <= set(grid["bf16"])]
    whole = wholes(grid["bf16"], workers=workers)
    if pairs:
        whole += wholes([one for pair in pairs for one in pair], dtypes=["fp32"], workers=workers)
    finished(told, time.perf_counter() - started)
    protocol = {
        "dtype": "that of the maps; weights and vectors float32",
        "pieces": "bytes of the largest aligned piece that C (channels_last) or P (contiguous) divides into, up to 16",
        "registers": "of the assembler that comes with Triton; spilled: stack and local memory, bytes",
        "bytes": "of the maps over the published peak rate of the card, us: a bound from below, not measured",
        "predicted": "us: of each launch the longest of bytes, sectors, accesses and instructions at published rates; "
        "not measured",
        "fingerprint": fingerprint(grid),
    }
    record = Record("bench kernels", command_line(), 0, told, protocol, {"kernels": found, "maps": whole})
    title, sections = "Kernels, compiled and read", report_sections(found, whole, pairs, widest)
    print(markdown(title, record, sections))
    if path:
        write_record(record, title, sections, None, path)
    return 0
