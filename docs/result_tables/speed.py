"""docs/speed.md: the block and whole networks, timed."""

from __future__ import annotations

from result_tables.parts import Kinds, Record, Records, benchmarks, grid, where

__all__ = ["tables"]


def blocks(file: str, record: Record) -> list[str]:
    """Polarized self-attention in every implementation over all shapes: forward, and forward with backward."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for mean in record["tables"]["means"]:
        if mean["way"] == "eager":
            found.setdefault((mean["label"], mean["memory_format"]), {})[mean["mode"]] = mean
    rows = []
    for (label, memory_format), modes in found.items():
        cells = [label, memory_format]
        for mode in ("fwd", "fwdbwd"):
            one = modes.get(mode, {})
            for key in ("speedup", "least_speedup", "over_limit_large"):
                cells.append("–" if one.get(key) is None else f"{one[key]:.3g}")
        rows.append(cells)
    head = ["block", "memory format"]
    head += [f"{mode}: {column}" for mode in ("fwd", "fwd+bwd") for column in ("mean", "least", "time/limit, large")]
    return [f"### The block, {record['conditions']['device']}", "", where(file, record), "", *grid(head, rows)]


def networks(file: str, record: Record) -> list[str]:
    """Whole networks: time over that of the network without attention."""
    rows = []
    for one in record["tables"]["rows"]:
        for way, ratio in one["ratio"].items():
            cells = [one["network"], one["mode"], f"{one['batch']}", way, one["variant"], f"{ratio['median']:.3f}"]
            cells += [f"{ratio['low']:.3f} .. {ratio['high']:.3f}", f"{one['images_per_second'][way]:.3g}"]
            rows.append(cells)
    head = ["network", "mode", "images", "way", "attention", "time ratio", "quartiles", "images/s"]
    return [f"### Whole networks, {record['conditions']['device']}", "", where(file, record), "", *grid(head, rows)]


KINDS: Kinds = {"bench block": blocks, "bench model": networks}


def tables(records: Records) -> str:
    """Everything between the marks of the page."""
    return benchmarks(KINDS, records)
