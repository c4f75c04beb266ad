"""Reading the record of an evaluation back, and files that are none."""

import json
from pathlib import Path

import pytest

from polarpix.errors import InputError
from polarpix.records import read_record

RECORD = {"metrics": {"AP": 0.5}, "protocol": {}, "conditions": {"device": "cpu"}, "config": {"name": "x"}, "seed": 3}


def test_a_record_comes_back_whole(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path / "record.json") == read_record(str(tmp_path / "record.json")) == RECORD


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"no record of an evaluation \(Expecting value"),
        (b"{", r"no record of an evaluation \("),
        (b"\xff", r"no record of an evaluation \("),
        (b"[" * 100_000, r"no record of an evaluation \("),
        (b"{}", "metrics is missing"),
        (b"[1]", "metrics is missing"),
        (b'{"metrics": [0.5]}', "metrics is missing"),
        (b'{"metrics": {}}', "protocol is missing"),
        (json.dumps({**RECORD, "conditions": None}).encode(), "conditions is missing"),
        (json.dumps({**RECORD, "config": "x"}).encode(), "config is missing"),
        (None, r"no record of an evaluation \(.*No such file"),
    ],
)
def test_files_that_are_no_record(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"record\.json: .*{words}.*: give record.json as 'polarpix eval' writes it$"):
        read_record(path)
