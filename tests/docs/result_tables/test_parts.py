"""What the tables of several pages share."""

from result_tables.parts import Kinds, benchmarks, grid, made_by, where


def test_benchmarks_come_in_the_order_of_their_kinds() -> None:
    kinds: Kinds = {"a": lambda file, record: [f"a {file}"], "b": lambda file, record: [f"b {file}"]}
    records = {"1.json": {"kind": "b"}, "2.json": {"kind": "a"}, "3.json": {"kind": "other"}, "4.json": {"kind": "a"}}
    assert benchmarks(kinds, records).split("\n") == ["a 2.json", "a 4.json", "b 1.json"]
    assert benchmarks(kinds, {"3.json": {"kind": "other"}}).startswith("No benchmark has been recorded")


def test_conditions_are_one_sentence() -> None:
    told = {"device": "NVIDIA H100", "torch": "9", "commit": "abc", "load_before": 0.1}
    record = {"command": "run it", "seed": 3, "conditions": told, "protocol": {"dtype": "bf16"}}
    assert where("b.json", record) == "`run it` on NVIDIA H100, bf16, torch 9, at `abc`, load before 0.1: `b.json`."
    assert made_by("b.json", record) == "`run it` on NVIDIA H100, seed 3, at `abc`: `b.json`."
    assert grid(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]
