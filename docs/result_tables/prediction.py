"""docs/prediction.md: what prediction waits for."""

from __future__ import annotations

from result_tables.parts import Kinds, Record, Records, benchmarks, grid, where

__all__ = ["tables"]


def overlaps(file: str, record: Record) -> list[str]:
    """What prediction waits for."""
    head = ["source", "frames", "network", "frames/s", "time over network alone", "network at work"]
    head += ["waits for decoding", "for drawing and writing", "meanwhile decoding", "drawing and writing"]
    rows = []
    for one in record["tables"]["rows"]:
        cells = [one["source"], f"{one['frames']}", one["network"], f"{one['frames_per_second']:.1f}"]
        cells.append(f"{one['seconds'] / one['alone_seconds']:.2f}")
        waits = [one["network_seconds"], one["waiting_to_decode"], one["waiting_to_write"]]
        cells += [f"{100 * seconds / one['seconds']:.0f}%" for seconds in waits]
        cells += [f"{one['decode']:.1f} s", f"{one['write']:.1f} s"]
        rows.append(cells)
    return [where(file, record), "", *grid(head, rows)]


KINDS: Kinds = {"predict overlap": overlaps}


def tables(records: Records) -> str:
    """Everything between the marks of the page."""
    return benchmarks(KINDS, records)
