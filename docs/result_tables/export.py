"""docs/export.md: exported files, timed."""

from __future__ import annotations

from result_tables.parts import Kinds, Record, Records, benchmarks, grid, where

__all__ = ["tables"]


def exports(file: str, record: Record) -> list[str]:
    """An exported file's predictor beside loops over onnxruntime by hand."""
    head = ["network", "input"]
    rows = []
    for one in record["tables"]["rows"]:
        cells = [one["task"], one["input"]]
        for way, time in one["times"].items():
            head += [f"{way}, ms"] if not rows else []
            cells.append(f"{time['median']:.1f}")
        for way, ratio in one["ratio"].items():
            head += [f"time over {way}"] if not rows else []
            cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f} .. {ratio['high']:.2f})")
        rows.append(cells)
    return [where(file, record), "", *grid(head, rows)]


KINDS: Kinds = {"bench export": exports}


def tables(records: Records) -> str:
    """Everything between the marks of the page."""
    return benchmarks(KINDS, records)
