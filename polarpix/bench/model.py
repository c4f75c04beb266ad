"""`polarpix bench model`: training step and inference of whole networks, with and without attention."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from polarpix.bench.block_settings import DTYPES, FORMATS, Block, parse_blocks
from polarpix.bench.counting import peak_memory
from polarpix.bench.exported import exported
from polarpix.bench.model_page import ModelRow, compare, picture, sections
from polarpix.bench.networks import BY_DEFAULT, NETWORKS, OTHERS, Network, build_loss, build_network
from polarpix.bench.record import (
    Record,
    choose,
    command_line,
    finished,
    machine,
    markdown,
    one_line,
    record_path,
    write_record,
)
from polarpix.bench.timing import Candidate, Run, Samples, captured, interleaved, keep_freed_memory, measured_device, on
from polarpix.errors import InputError
from polarpix.report import Section

__all__ = ["ModelSettings", "bench_model", "measure_models", "mixed", "model_settings", "state_bytes"]

MODES = ("train", "infer", "onnx")
VARIANTS = "none,se,psa_p:reference,psa_p:collapsed,psa_p:loops,psa_p:fused"
ROUNDS = {"cuda": 20, "cpu": 11}
LEARNING_RATE = 1e-5  # small: random targets must not drive the weights to values that are slow to compute with


@dataclass(frozen=True)
class ModelSettings:
    """What is measured.

    Args:
        networks: keys of NETWORKS.
        modes: train, infer, onnx.
        variants: attention of each network; the first is what the others are held against.
        others: whether other libraries' networks stand beside them.
        batch: images; null for the table's.
        rounds: samples of each network.
    """

    device: torch.device
    dtype: str
    networks: Sequence[str]
    modes: Sequence[str]
    variants: Sequence[Block]
    memory_format: str
    others: bool
    batch: int | None
    rounds: int
    seed: int = 0


def model_settings(
    device: str = "auto",
    dtype: str = "auto",
    models: str = "",
    mode: str = "all",
    attention: str = "",
    memory_format: str = "channels_last",
    onnx: bool = False,
    others: bool = True,
    batch: int = 0,
    rounds: int = 0,
) -> ModelSettings:
    """The options of the command, checked.

    Raises:
        InputError: an option that means nothing.
    """
    where = measured_device(device)
    if batch < 0 or rounds < 0:
        raise InputError(f"--batch {batch} --rounds {rounds}: give at least 1, or 0 for the default")
    modes = ["train", "infer"] if mode == "all" else choose("mode", mode, ["train", "infer", "all"])
    variants = parse_blocks(attention or VARIANTS, "attention")
    base = Block("none")
    kind = "bf16" if where.type == "cuda" else "fp32"
    return ModelSettings(
        device=where,
        dtype=choose("dtype", kind if dtype == "auto" else dtype, list(DTYPES))[0],
        networks=choose("models", models, list(NETWORKS)) if models else BY_DEFAULT[where.type],
        modes=[*modes, "onnx"] if onnx else modes,
        variants=[base, *(variant for variant in variants if variant != base)],
        memory_format=choose("format", memory_format, list(FORMATS))[0],
        others=others,
        batch=batch or None,
        rounds=rounds or ROUNDS[where.type],
    )


def mixed(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to a smaller dtype than fp32; the weights stay fp32, as in training."""
    return nullcontext() if dtype == "fp32" else torch.autocast(device.type, DTYPES[dtype])


def inference(net: nn.Module, image: Tensor, dtype: str) -> Run:
    """One forward pass without gradients."""
    net.eval()

    def run() -> None:
        with torch.inference_mode(), mixed(dtype, image.device):
            net(image)

    return run


def training(net: nn.Module, image: Tensor, loss: Callable[[Tensor], Tensor], dtype: str) -> tuple[Run, Any]:
    """One step of AdamW: forward, loss, backward, update; no gradient is alive after it. Also the optimiser."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, capturable=image.is_cuda)

    def run() -> None:
        with mixed(dtype, image.device):
            value = loss(net(image))
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run, optimizer


def state_bytes(net: nn.Module, optimizer: Any) -> int:
    """Parameters, buffers and what the optimiser remembers."""
    remembered = [] if optimizer is None else [v for one in optimizer.state.values() for v in one.values()]
    tensors = [*net.parameters(), *net.buffers(), *(v for v in remembered if isinstance(v, Tensor))]
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def prepare(
    row: ModelRow, build: Callable[[], nn.Module], network: Network, settings: ModelSettings, folder: Path, pool: Any
) -> dict[str, Candidate]:
    """Build a network, count its memory, give what there is to time: way -> candidate; the rest becomes a note."""
    device = torch.device("cpu") if row.mode == "onnx" else settings.device
    generator = torch.Generator(device).manual_seed(settings.seed)
    image = torch.randn(row.batch, 3, *network.size, generator=generator, device=device)  # [B, 3, H, W]
    try:
        torch.manual_seed(settings.seed)  # of the weights
        net = build()
        row.params = sum(parameter.numel() for parameter in net.parameters())
        if row.mode == "onnx":
            return {"onnxruntime": exported(net.eval(), image, folder)}
        layout: Any = FORMATS[settings.memory_format]
        net, image = net.to(device).to(memory_format=layout), image.contiguous(memory_format=layout)
        optimizer = None
        if row.mode == "train":
            run, optimizer = training(net, image, build_loss(network, row.batch, generator), settings.dtype)
        else:
            run = inference(net, image, settings.dtype)
        row.step_bytes = peak_memory(run, device)
        row.state_bytes = state_bytes(net, optimizer)
    except Exception as error:  # whatever an implementation or a library says when it cannot run here
        row.notes["onnxruntime" if row.mode == "onnx" else "eager"] = one_line(error)
        return {}
    ways = {"eager": Candidate(run)}
    if device.type == "cuda":
        try:
            ways["graph"] = captured(run, pool, calls=1)
        except Exception as error:  # no capture, no memory
            row.notes["graph"] = one_line(error)
    return ways


def measure_group(
    name: str, mode: str, settings: ModelSettings, tick: Callable[[], object]
) -> tuple[list[ModelRow], dict[str, Samples]]:
    """All variants of one network in turns, every one in every round."""
    network = NETWORKS[name]
    device = "cpu" if mode == "onnx" else settings.device.type
    batch = settings.batch or (network.train if mode == "train" else network.infer)[device]
    builders: dict[str, Callable[[], nn.Module]] = {
        variant.label: partial(build_network, network, variant) for variant in settings.variants
    }
    if settings.others and mode != "onnx":
        builders |= {label: partial(build, network) for label, build in OTHERS.get(name, {}).items()}
    pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
    rows: list[ModelRow] = []
    candidates: dict[str, Candidate] = {}
    with TemporaryDirectory() as folder:
        for label, build in builders.items():
            row = ModelRow(name, mode, label, batch, list(network.size))
            ways = prepare(row, build, network, settings, Path(folder), pool)
            candidates |= {f"{label} {way}": candidate for way, candidate in ways.items()}
            rows.append(row)
            tick()
        found = interleaved(candidates, torch.device(device), settings.rounds, tick=tick)
    compare(rows, found)
    return rows, found


def measure_models(settings: ModelSettings, keep: Callable[[Record], None] = lambda record: None) -> Record:
    """Measure everything; ``keep`` gets the record after each group, so that an interruption loses little."""
    started = time.perf_counter()
    told = machine(settings.device)
    protocol = {
        "device": str(settings.device),
        "dtype": settings.dtype if settings.dtype == "fp32" else f"{settings.dtype} by autocast, weights fp32",
        "memory format": settings.memory_format,
        "allocator": keep_freed_memory(),
        "samples": f"{settings.rounds}, in turns",
        "train": "forward, loss, backward, AdamW step; milliseconds per step, median and quartiles",
        "infer": "forward in evaluation mode; milliseconds per batch, median and quartiles",
        "onnx": "the same exported to ONNX, ONNX Runtime on the CPU, fp32",
        "ratio": "time over that of the network without attention in the same round, median and quartiles",
        "memory": "weights, buffers, optimiser state, and the most one step allocates beside them",
        "other libraries": "their own designs on the same backbone: strides and widths of the heads differ",
        "cudnn benchmark": torch.backends.cudnn.benchmark,
    }
    record = Record("bench model", command_line(), settings.seed, told, protocol, {"rows": []})
    work = list(product(settings.networks, settings.modes))
    with on(settings.device), torch.random.fork_rng(), tqdm(total=len(work), desc="bench model", unit="") as bar:
        for name, mode in work:
            bar.set_postfix_str(f"{name} {mode}")
            rows, _ = measure_group(name, mode, settings, bar.refresh)
            record.tables["rows"] += rows
            bar.update()
            finished(told, time.perf_counter() - started)
            keep(record)
    return record


def bench_model(settings: ModelSettings, json: str = "") -> str:
    """Measure, write FILE.json, FILE.md and FILE.png if a file is named, and give the Markdown page.

    Raises:
        InputError: a file name that cannot be a record's.
    """
    path = record_path(json)
    title = "Whole networks"

    def page(record: Record) -> list[Section]:
        return sections(record.tables["rows"])

    def keep(record: Record) -> None:
        if path is not None:
            shown = picture(record.tables["rows"], record.conditions["device"], settings.dtype)
            write_record(record, title, page(record), shown, path)

    record = measure_models(settings, keep)
    return markdown(title, record, page(record))
