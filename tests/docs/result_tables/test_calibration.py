"""The rows of docs/calibration.md."""

from result_tables.calibration import tables


def test_errors_and_ellipses_become_rows() -> None:
    metrics = {"ECE_uncalibrated": 0.06, "ECE": 0.02, "coverage/90%": 0.91, "coverage/90% as a Gaussian": 0.8}
    record = {"name": "a_pose", "split": "test", "metrics": metrics}
    text = tables(
        {"p.json": record, "s.json": record | {"name": "a_seg", "metrics": {"ECE_uncalibrated": 1, "ECE": 2}}}
    )
    assert "| a_pose | test | 0.0600 | 0.0200 | 3.0 | `p.json` |" in text
    assert "| a_seg | test | 1.0000 | 2.0000 | 0.5 | `s.json` |" in text
    ellipses = text.partition("### Ellipses")[2]
    assert "| a_pose | test | 90% | 80.00% | 91.00% | `p.json` |" in ellipses
    assert "a_seg" not in ellipses
    assert tables({"x.json": {"metrics": {"AP": 1}}}).startswith("No evaluation of calibrated weights")
