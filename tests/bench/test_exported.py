"""ONNX Runtime beside torch: what is missing is said, another output is refused, threads are the same."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polarpix.bench import exported as module
from polarpix.bench.exported import exported, why_not_exported
from polarpix.errors import InputError


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert why_not_exported() == "onnxscript not installed: pip install 'polarpix[export]'"
    with pytest.raises(InputError, match="onnxscript not installed"):
        exported(nn.Identity(), torch.ones(1, 3, 2, 2), tmp_path)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An ONNX Runtime that multiplies by ``factor``."""
    fake = SimpleNamespace(factor=2.0, runs=0, threads=None, files=[])

    class Session:
        def __init__(self, path: str, options: Any, providers: list[str]) -> None:
            assert providers == ["CPUExecutionProvider"]
            fake.threads = options.intra_op_num_threads
            fake.files.append(Path(path))

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="image")]

        def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
            fake.runs += 1
            return [feed["image"] * np.float32(fake.factor)]

    fake.InferenceSession, fake.SessionOptions = Session, SimpleNamespace
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(torch.onnx, "export", lambda network, args, path, **_: Path(path).write_text("graph"))
    return fake


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_the_exported_network_is_run(runtime: SimpleNamespace, tmp_path: Path) -> None:
    image = torch.ones(1, 3, 2, 2)
    candidates = [exported(Double(), image, tmp_path) for _ in range(2)]
    assert len(set(runtime.files)) == 2
    assert runtime.threads == torch.get_num_threads()
    before = runtime.runs
    candidates[0].run()
    assert runtime.runs == before + 1


@pytest.mark.parametrize("factor", [2.01, float("nan")])
def test_another_output_is_refused(runtime: SimpleNamespace, tmp_path: Path, factor: float) -> None:
    runtime.factor = factor
    with pytest.raises(InputError, match="output differs"):
        exported(Double(), torch.ones(1, 3, 2, 2), tmp_path)


def test_a_network_that_torch_itself_computes_badly_may_differ(runtime: SimpleNamespace, tmp_path: Path) -> None:
    class Cancels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * ((x + 2.0**22) - 2.0**22)  # in float32 a quarter is lost

    runtime.factor = 2.2
    exported(Cancels(), torch.full((1, 3, 2, 2), 1.25), tmp_path)
    runtime.factor = 3.0
    with pytest.raises(InputError, match=r"torch's by 2\.0e-01"):
        exported(Cancels(), torch.full((1, 3, 2, 2), 1.25), tmp_path)
