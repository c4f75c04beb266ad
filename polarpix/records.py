"""The record of an evaluation, as `polarpix eval` writes it, back from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polarpix.errors import InputError

__all__ = ["read_record"]

PARTS = ("metrics", "protocol", "conditions", "config")  # each a table


def read_record(path: str | Path) -> dict[str, Any]:
    """The record of an evaluation: metrics, protocol, conditions, page, and what else was written.

    Raises:
        InputError: no such file, or not a record.
    """
    mend = "give record.json as 'polarpix eval' writes it"
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no record of an evaluation ({error}): {mend}") from error
    for part in PARTS:
        if not isinstance(record, dict) or not isinstance(record.get(part), dict):
            raise InputError(f"{path}: no record of an evaluation, {part} is missing: {mend}")
    return dict(record)
