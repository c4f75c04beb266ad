"""Records and pages: whole numbers in JSON, tables that line up, options that are refused in one line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from polarpix.bench.record import (
    Record,
    choose,
    figure,
    finished,
    machine,
    markdown,
    one_line,
    plain,
    record_path,
    spread_text,
    write_record,
)
from polarpix.bench.timing import Spread
from polarpix.errors import InputError
from polarpix.report import Section, Table


@pytest.fixture
def record() -> Record:
    rows = [Spread(1.0, 0.5, math.inf, 3), Spread(2.0, 1.0, 3.0, 4)]
    return Record("bench block", "polarpix bench block", 0, {"cpu": "x"}, {"dtype": "fp32"}, {"rows": rows, "none": []})


def test_choices() -> None:
    assert choose("mode", "", ["a", "b"]) == ["a", "b"]
    assert choose("mode", "b, a,b", ["a", "b"]) == ["b", "a"]
    with pytest.raises(InputError, match="--mode names 'c': choose among a, b"):
        choose("mode", "a,c", ["a", "b"])
    with pytest.raises(InputError, match="--mode ', ' names nothing: choose among a, b"):
        choose("mode", ", ", ["a", "b"])


def test_where_a_record_goes(tmp_path: Path) -> None:
    assert record_path("") is None
    assert record_path("a/b.json") == Path("a/b.json")
    (tmp_path / "x.json").mkdir()
    for bad in ("a/b", "b.md", str(tmp_path / "x.json")):
        with pytest.raises(InputError, match=r"give the name of a \.json file"):
            record_path(bad)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no folder: choose another place"):
        record_path(str(tmp_path / "file" / "x.json"))


def test_numbers() -> None:
    assert plain({"a": (1.23456789, 3, None), "b": Spread(math.nan, 0.0, 1e-9, 2)}) == {
        "a": [1.2346, 3, None],
        "b": {"median": None, "low": 0.0, "high": 1e-9, "samples": 2},
    }
    assert [figure(v) for v in (1234.5, 12.345, 1.2345, 0.012345, 0.0, None, math.nan)] == [
        "1,234", "12.3", "1.23", "0.0123", "0", "–", "–"
    ]  # fmt: skip
    assert spread_text(Spread(1.0, 0.5, 2.25, 3)) == "1.00 (0.500..2.25)"
    assert spread_text(None) == "–"
    assert one_line(RuntimeError("\nno compiler\nfound")) == "not available: no compiler"
    assert one_line(MemoryError()) == "not available: MemoryError"


def test_a_record_has_one_line_for_each_row(record: Record, tmp_path: Path) -> None:
    picture = np.full((4, 6, 3), 200, np.uint8)
    write_record(record, "Blocks", [Section("All", "words")], picture, tmp_path / "deep" / "r.json")
    text = (tmp_path / "deep" / "r.json").read_text()
    found = json.loads(text)
    assert found["tables"] == {
        "rows": [
            {"median": 1.0, "low": 0.5, "high": None, "samples": 3},
            {"median": 2.0, "low": 1.0, "high": 3.0, "samples": 4},
        ],
        "none": [],
    }
    assert [found[key] for key in ("kind", "command", "seed")] == ["bench block", "polarpix bench block", 0]
    assert sum('"median"' in line for line in text.splitlines()) == 2
    assert "![Blocks](<r.png>)" in (tmp_path / "deep" / "r.md").read_text()
    assert (tmp_path / "deep" / "r.png").is_file()
    write_record(record, "Blocks", [], None, tmp_path / "s.json")
    assert not (tmp_path / "s.png").exists()


def test_tables_line_up(record: Record) -> None:
    table = Table(["name", "ms"], [["a|b", "1.00"], ["longer name", "–"]])
    lines = markdown("T", record, [Section("One", "", table)]).splitlines()
    start = lines.index("## One") + 2
    assert lines[start : start + 4] == [
        "| name        |   ms |",
        "| ----------- | ---: |",
        "| a\\|b        | 1.00 |",
        "| longer name |    – |",
    ]
    assert "| dtype    | fp32 |" in lines
    assert markdown("T", record, [Section("One", "", Table(["a"], []))])


def test_a_machine_says_what_it_is() -> None:
    told = machine(torch.device("cpu"))
    finished(told, 1.25)
    assert {"commit", "torch", "cpu", "cores", "threads", "load_before", "load_after", "started"} <= set(told)
    assert told["device"] == "cpu"
    assert told["seconds"] == 1.2
    assert told["threads"] == torch.get_num_threads()
    json.dumps(told)
