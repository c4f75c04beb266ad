"""docs/speed.md: the block and whole networks, timed."""

from __future__ import annotations

from result_tables.parts import Kinds, Record, Records, benchmarks, grid, where

__all__ = ["tables"]

WAYS = {"eager": "eager", "graph": "graph", "compiled": "torch.compile", "compiled_graph": "the same in a graph"}


def blocks(file: str, record: Record) -> list[str]:
    """Polarized self-attention in every implementation over all shapes: forward, and forward with backward."""
    if record["protocol"]["device"] != "cpu":
        return on_a_gpu(file, record)
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


def on_a_gpu(file: str, record: Record) -> list[str]:
    """Every block on every shape in microseconds: called eagerly and in a CUDA graph, by itself and compiled."""
    rows = []
    for one in record["tables"]["rows"]:
        label = f"{one['block']}:{one['impl']}" if one["impl"] else one["block"]
        times = {way: 1e3 * spread["median"] for way, spread in one["times"].items()}
        limit = 1e3 * one["limit_ms"]
        cells = ["x".join(map(str, one["shape"])), one["mode"], one["memory_format"], label, f"{limit:.3g}"]
        cells += [f"{times[way]:.3g}" if way in times else "–" for way in WAYS]
        cells += [f"{times['graph'] / limit:.2f}" if "graph" in times else "–", f"{one['peak_maps']:.3g}"]
        rows.append(cells)
    head = ["B, C, H, W", "mode", "memory format", "block", "limit", *WAYS.values(), "graph/limit", "peak maps"]
    device = record["conditions"]["device"]
    text = (
        "Microseconds, medians. Limit: 3 passes over the map forward, 8 with the backward, at the rate of a large copy."
    )
    return [f"### The block, {device}", "", where(file, record), "", text, "", *grid(head, rows)]


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
