"""The rows of docs/prediction.md."""

from result_tables.prediction import tables

CONDITIONS = {"device": "cpu", "cpu": "X", "threads": 2, "torch": "9", "commit": "abc", "load_before": 0.1}


def test_overlaps_become_rows() -> None:
    record = {"kind": "predict overlap", "command": "python overlap.py", "conditions": CONDITIONS}
    row = {"source": "a video", "frames": 80, "network": "pose", "seconds": 10.0, "frames_per_second": 8.0}
    row |= {"network_seconds": 9.5, "waiting_to_decode": 0.04, "waiting_to_write": 0.3, "decode": 1.21, "write": 2.0}
    row |= {"alone_seconds": 8.0}
    text = tables({"o.json": record | {"protocol": {"dtype": "fp32"}, "tables": {"rows": [row]}}})
    assert "| a video | 80 | pose | 8.0 | 1.25 | 95% | 0% | 3% | 1.2 s | 2.0 s |" in text
