"""What the tables of several pages are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Kinds", "Record", "Records", "benchmarks", "grid", "made_by", "where"]

Record = dict[str, Any]
Records = dict[str, Record]  # by file name
Kinds = dict[str, Callable[[str, Record], list[str]]]


def grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)] + [""]


def where(file: str, record: Record) -> str:
    """The conditions of a benchmark in one sentence."""
    told = record["conditions"]
    machine = (
        f"{told['device']} ({told['cpu']}, {told['threads']} threads)" if told["device"] == "cpu" else told["device"]
    )
    return (
        f"`{record['command']}` on {machine}, {record['protocol']['dtype']}, torch {told['torch']}, "
        f"at `{told['commit']}`, load before {told['load_before']}: `{file}`."
    )


def made_by(file: str, record: Record) -> str:
    """The command of a record, where and at which commit it ran."""
    told = record["conditions"]
    return f"`{record['command']}` on {told['device']}, seed {record['seed']}, at `{told['commit']}`: `{file}`."


def benchmarks(kinds: Kinds, records: Records) -> str:
    """Everything between the marks of a page about speed."""
    lines = [
        line
        for kind, write in kinds.items()
        for file, record in records.items()
        if record.get("kind") == kind
        for line in write(file, record)
    ]
    return "\n".join(lines or ["No benchmark has been recorded yet.", ""])
