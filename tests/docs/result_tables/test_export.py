"""The rows of docs/export.md."""

from result_tables.export import tables

CONDITIONS = {"device": "cpu", "cpu": "X", "threads": 2, "torch": "9", "commit": "abc", "load_before": 0.1}


def test_latencies_become_rows() -> None:
    record = {"kind": "bench export", "command": "polarpix bench export", "conditions": CONDITIONS}
    ratio = {"median": 1.04, "low": 1.0, "high": 1.125}
    latency = {"task": "pose", "input": "1 box", "times": {"own": {"median": 36.84}, "by hand": {"median": 35.4}}}
    rows = [latency | {"ratio": {"by hand": ratio}}] * 2
    text = tables({"e.json": record | {"protocol": {"dtype": "fp32"}, "tables": {"rows": rows}}})
    assert "| network | input | own, ms | by hand, ms | time over by hand |" in text
    assert text.count("| pose | 1 box | 36.8 | 35.4 | 1.04 (1.00 .. 1.12) |") == 2
