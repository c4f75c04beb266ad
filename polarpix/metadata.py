"""What a network says of itself, in JSON: its page and its labels, back to the value classes without a parser."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from polarpix.config import PoseRun, SegRun
from polarpix.types import ClassTable, KeypointSchema

__all__ = ["printable", "read_labels", "read_run"]


def printable(text: str) -> str:
    """A text of a file for the terminal, which obeys some of the letters that are not to be seen."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def read_labels(task: str, values: dict[str, Any]) -> KeypointSchema | ClassTable:
    """Labels from their JSON: lists become the tuples of the value classes."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(v) for v in value) if isinstance(value, list) else value

    kind = KeypointSchema if task == "pose" else ClassTable
    return kind(**{key: frozen(value) for key, value in values.items()})


def read_run(values: dict[str, Any]) -> PoseRun | SegRun:
    """A page from the JSON of one that was checked when it was written; keys of a later version are passed over."""
    run: PoseRun | SegRun = _filled(PoseRun if values["task"] == "pose" else SegRun, values)
    return run


def _filled(kind: Any, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        if field.name in values:
            value, hint = values[field.name], hints[field.name]
            inner = tuple(value) if isinstance(value, list) and str(hint).startswith("tuple") else value
            found[field.name] = _filled(hint, value) if is_dataclass(hint) else inner
    return kind(**found)
