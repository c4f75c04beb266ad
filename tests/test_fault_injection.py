"""The parts of benchmarks/fault_injection.py that decide what a record says."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Its modules by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("fault_injection", "fault_parts", "fault_signals")
    return {name: __import__(name) for name in names}


def test_a_row_takes_the_place_of_its_older_one(rooms: dict[str, ModuleType], tmp_path: Path) -> None:
    injection, path = rooms["fault_injection"], tmp_path / "r.json"
    for key, times in (("twice", 1), ("kill", 1), ("twice", 2)):
        injection.write(path, {"key": key, "times": times})
    assert json.loads(path.read_text())["rows"] == [{"key": "kill", "times": 1}, {"key": "twice", "times": 2}]
    assert injection.chosen("disk,nan") == ["disk", "nan"]
    assert injection.chosen("") == list(injection.FAULTS)
    with pytest.raises(SystemExit, match="--only xyz: choose of kill"):
        injection.chosen("disk,xyz")
    assert injection.told({"a": ["/t/x/y", 1]}, "/t/x") == {"a": ["FOLDER/y", 1]}


def test_moments_lie_between_two_updates_or_behind_the_last(rooms: dict[str, ModuleType]) -> None:
    signals = rooms["fault_signals"]
    times = [2.0, 3.0, 7.0]
    assert signals.moments(times, 9.0, late=False) == (2.0, 7.0)
    assert signals.moments(times, 9.0, late=True) == (7.0, 9.0)
    assert signals.met_by(times, 2.0) == (1, 0.0)
    assert signals.met_by(times, 6.5) == (2, 3.5)
    assert signals.met_by(times, 8.0) == (3, 1.0)


def test_what_a_process_said_is_judged(rooms: dict[str, ModuleType]) -> None:
    parts = rooms["fault_parts"]

    def ended(said: str, status: int = 2) -> object:
        call = [sys.executable, "-c", f"import sys; sys.stderr.write({said!r}); sys.exit({status})"]
        return parts.finish(subprocess.Popen(call, stderr=subprocess.PIPE, text=True))

    bar = "Epoch 0:  50%|#####     | 7/14 [00:00<00:00, 1.2it/s]"
    good = ended(f"\r{bar}\r   \rpolarpix: warning: mind\npolarpix: a/b.jpg: bad\n")
    assert good.clean
    assert good.warned == ["polarpix: warning: mind"]
    assert all(good.one_line("b.jpg").values())
    for said, status in (
        (f"\r{bar}polarpix: b.jpg: bad\n", 2),  # behind the bar
        ("polarpix: b.jpg: bad\npolarpix: again b.jpg\n", 2),
        ("RuntimeError\npolarpix: b.jpg: bad\n", 2),
        ("polarpix: bad\n", 2),
        ("polarpix: b.jpg: bad\n", 1),
    ):
        assert not all(ended(said, status).one_line("b.jpg").values())
    assert not ended("Traceback (most recent call last):\n").clean
