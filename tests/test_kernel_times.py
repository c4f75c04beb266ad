"""benchmarks/kernel_times.py without a GPU: launches are noted and done again, wrong options refused in one line."""

import ast
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.bench.block_settings import SHAPES
from polarpix.bench.timing import Samples
from polarpix.errors import InputError
from polarpix.psa import PolarizedSelfAttention, steps

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kernel_times.py"


@pytest.fixture(scope="module")
def times() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_times", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_times"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.interpreter
@pytest.mark.parametrize("kind", ["paper:parallel", "paper:sequential", "released:parallel"])
def test_launches_are_noted_and_can_be_done_again(times: Any, kind: str) -> None:
    form, layout = kind.split(":")
    block = PolarizedSelfAttention(4, layout, form, impl="fused")
    x = torch.randn(1, 4, 3, 5, requires_grad=True)
    call = steps.Step.__call__
    found = times.chain(block, x, torch.randn_like(x))
    assert steps.Step.__call__ is call
    assert [one.name for one in found["forward"]] == ["pool", "gate"]
    assert [one.name for one in found["backward"]] == ["grad_pool", "grad_gate", "grad_weight"]
    out, dx = found["forward"][1].args[1], found["backward"][1].args[2]  # where the kernels of a small sample write
    first = out.clone(), dx.clone()
    assert torch.equal(out, block(x))
    for made in (out, dx):
        made.zero_()
    for one in (*found["forward"], *found["backward"]):
        one()
    assert torch.equal(out, first[0])
    assert torch.equal(dx, first[1])


def test_what_raises_inside_leaves_launches_as_they_were(times: Any) -> None:
    call = steps.Step.__call__
    with pytest.raises(ZeroDivisionError), times.noted():
        raise ZeroDivisionError
    assert steps.Step.__call__ is call


@pytest.mark.interpreter
def test_every_launch_has_a_row_and_each_direction_one(times: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, whose times say nothing; without graphs."""
    done: list[str] = []
    call = times.Launch.__call__
    monkeypatch.setattr(times.Launch, "__call__", lambda self: (done.append(self.name), call(self))[1])
    monkeypatch.setattr(times, "captured", lambda run, calls: times.Candidate(run, calls))
    monkeypatch.setattr(times, "MOST_INPUTS", 2)
    medians = {"alone": 1.0, "until": 10.0, "one input": 5.0}  # milliseconds

    def timed(candidates: dict[str, Any], device: torch.device, rounds: int) -> dict[str, Any]:
        found = {}
        for key, candidate in candidates.items():
            direction, way, i = ast.literal_eval(key)
            done.clear()
            candidate.run()
            names = ["pool", "gate"] if direction == "forward" else ["grad_pool", "grad_gate", "grad_weight"]
            once = names if way == "one input" else names[i : i + 1] if way == "alone" else names[: i + 1]
            assert done == once * (1 if way == "one input" else 2)
            found[key] = Samples({0: medians[way] / 1e3 * (i + 1)})
        return found

    monkeypatch.setattr(times, "interleaved", timed)
    rows, chains = times.measure((1, 4, 3, 5), "paper:parallel", "channels_last", "fp32", torch.device("cpu"))
    assert [(one.kernel, one.us, one.us_added) for one in rows if one.direction == "backward"] == [
        ("grad_pool", 1000, 10000), ("grad_gate", 2000, 10000), ("grad_weight", 3000, 10000)
    ]  # fmt: skip
    assert [(one.direction, one.inputs, one.us, one.us_one_input) for one in chains] == [
        ("forward", 2, 20000, 5000), ("backward", 2, 30000, 5000)
    ]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES["cuda"])
def test_inputs_are_more_than_a_cache_holds(times: Any, shape: tuple[int, ...]) -> None:
    assert times.count(shape, "bf16") * math.prod(shape) * 2 >= times.ROTATED
    assert (times.count(shape, "bf16") - 1) * math.prod(shape) * 2 < times.ROTATED
    assert times.count((1, 2, 1, 1), "bf16") == times.MOST_INPUTS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kinds", "released:sequential"], "--kinds names 'released:sequential'"),
        (["--shapes", "1,2,3"], "--shapes holds '1,2,3'"),
        (["--formats", "nhwc"], "--formats names 'nhwc'"),
        (["--json", "times.txt"], r"--json times\.txt"),
    ],
)
def test_options_are_looked_at_first(times: Any, arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        times.main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(times: Any) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "no CUDA device: launches are timed on a GPU, run this on a machine that has one"
    ]


@pytest.mark.gpu
def test_times_on_a_gpu(times: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times.main(["--shapes", "2,64,96,96", "--formats", "channels_last", "--json", str(tmp_path / "times.json")])
    assert "grad_weight" in capsys.readouterr().out
    assert (tmp_path / "times.json").is_file()
