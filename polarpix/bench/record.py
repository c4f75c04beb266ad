"""What a benchmark found, on paper: conditions, one JSON record, a Markdown page and its picture beside it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from polarpix.bench.timing import Spread
from polarpix.engine.artifact import write_text
from polarpix.engine.evaluate import conditions
from polarpix.errors import InputError
from polarpix.images import check_place, write_image
from polarpix.report import Section, Table, shown
from polarpix.types import UInt8Array

__all__ = [
    "Record",
    "choose",
    "command_line",
    "figure",
    "finished",
    "machine",
    "markdown",
    "one_line",
    "plain",
    "record_path",
    "spread_text",
    "write_record",
]


@dataclasses.dataclass
class Record:
    """A benchmark's figures with all they depend on.

    Args:
        kind: "bench block" or "bench model".
        command: the command line that made it.
        seed: of inputs and weights.
        conditions: machine, versions, commit, load.
        protocol: what was measured and how: device, dtype, ruler, samples, units.
        tables: name -> rows, each a dataclass.
    """

    kind: str
    command: str
    seed: int
    conditions: dict[str, Any]
    protocol: dict[str, Any]
    tables: dict[str, list[Any]]


def choose(key: str, text: str, choices: Sequence[str]) -> list[str]:
    """The words of a comma list, all of ``choices`` for an empty one.

    Raises:
        InputError: a word that is not among the choices, naming them, or commas without a word.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if text and not words:
        raise InputError(f"--{key} {text!r} names nothing: choose among {', '.join(choices)}")
    words = words or list(choices)
    for word in words:
        if word not in choices:
            raise InputError(f"--{key} names {word!r}: choose among {', '.join(choices)}")
    return list(dict.fromkeys(words))


def record_path(name: str) -> Path | None:
    """Where the record goes, checked before an hour is spent on it; null for an empty name.

    Raises:
        InputError: a name that does not end in .json, or a place that takes no files.
    """
    if not name:
        return None
    path = Path(name)
    if path.suffix != ".json" or path.is_dir():
        raise InputError(f"--json {name}: give the name of a .json file; the .md and .png go beside it")
    check_place(path)
    return path


def command_line() -> str:
    """The command line of this process."""
    return " ".join(["polarpix", *sys.argv[1:]])


def one_line(error: BaseException) -> str:
    """Why something was not available, on one line."""
    lines = str(error).strip().splitlines()
    return f"not available: {lines[0] if lines else type(error).__name__}"


def machine(device: torch.device) -> dict[str, Any]:
    """Commit, versions and the machine: what a time must carry to be understood."""
    told = conditions() | {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    for package in ("timm", "triton", "onnxruntime"):
        told[package] = installed(package)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        told |= {
            "device": card.name,
            "compute_capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "l2_mib": round(card.L2_cache_size / 2**20, 1),
            "cuda": torch.version.cuda,
        }
    else:
        told["device"] = "cpu"
    told |= {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "load_before": load(),
    }
    return told


def finished(told: dict[str, Any], seconds: float) -> None:
    """Add to the conditions what is only known at the end."""
    told |= {"load_after": load(), "seconds": round(seconds, 1)}


def installed(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """What the processor calls itself."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load() -> float | None:
    """The load average of the last minute, where the system keeps one; about the threads of this process if quiet."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def plain(value: Any) -> Any:
    """Dataclasses as tables, numbers to five significant digits, null for what is not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def json_text(record: Record) -> str:
    """JSON with one line for each row, so that two records can be compared line by line."""
    content = plain(record)
    tables = content.pop("tables").items()
    listed = {name: ",\n".join(f"   {json.dumps(row)}" for row in rows) for name, rows in tables}
    blocks = ",\n".join(f"  {json.dumps(name)}: [\n{rows}\n  ]" for name, rows in listed.items())
    head = json.dumps(content, indent=1).removesuffix("\n}")
    return f'{head},\n "tables": {{\n{blocks}\n }}\n}}\n'


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table: significant digits without an exponent, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    places = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


def spread_text(value: Spread | None) -> str:
    """Median and quartiles in a cell: 1.23 (1.20..1.31)."""
    return "–" if value is None else f"{figure(value.median)} ({figure(value.low)}..{figure(value.high)})"


def markdown_table(table: Table) -> list[str]:
    """The lines of a table that reads in a terminal as well: padded columns, numbers to the right."""
    rows = [[shown(cell).replace("|", "\\|") for cell in row] for row in (table.headers, *table.rows)]
    wide = [max(3, *(len(row[i]) for row in rows)) for i in range(len(table.headers))]
    left = [not all(row[i][:1].isdigit() or row[i] == "–" for row in rows[1:]) for i in range(len(wide))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in zip(cells, wide, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if to_left else "-" * (w - 1) + ":" for w, to_left in zip(wide, left, strict=True)]
    return [line(rows[0]), line(rule), *map(line, rows[1:]), ""]


def markdown(title: str, record: Record, sections: Sequence[Section], picture: str = "") -> str:
    """The page: sections of text and tables, the picture, then protocol and conditions."""
    lines = [f"# {title}", "", f"`{record.command}`", ""]
    lines += [f"![{title}](<{picture}>)", ""] if picture else []
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [section.text, ""] if section.text else []
        lines += markdown_table(section.table) if section.table else []
    for name, told in (("Protocol", record.protocol), ("Conditions", record.conditions)):
        rows = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in plain(told).items()]
        lines += [f"## {name}", "", *markdown_table(Table([name.lower(), ""], rows))]
    return "\n".join(lines)


def write_record(
    record: Record, title: str, sections: Sequence[Section], picture: UInt8Array | None, path: Path
) -> None:
    """Write FILE.json, and beside it FILE.md and FILE.png."""
    name = path.with_suffix(".png").name if picture is not None else ""
    write_text(path, json_text(record))
    write_text(path.with_suffix(".md"), markdown(title, record, sections, name))
    if picture is not None:
        write_image(path.with_suffix(".png"), picture)
