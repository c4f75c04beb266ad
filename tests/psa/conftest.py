"""What tests of several implementations share. Kernel tests without a GPU run in Triton's interpreter."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from polarpix.psa import PolarizedSelfAttention, loops, whole


@pytest.fixture(autouse=True, scope="session")
def _one_patch_a_launch():
    """The interpreter patches the language at each launch, and once more, around itself, at each call between kernels:
    minutes of a test run. One patch of all that kernels see, at the launch, does the same.
    """
    if torch.cuda.is_available():
        yield
        return
    from triton import language
    from triton.runtime import interpreter

    everything = SimpleNamespace(__globals__={"tl": language, "core": language.core})
    real = interpreter._patch_lang
    patch = pytest.MonkeyPatch()
    patch.setattr(interpreter, "_patch_lang", lambda fn: real(everything))
    patch.setattr(
        interpreter.InterpretedFunction, "__call__", lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)
    )
    yield
    patch.undo()


@pytest.fixture(scope="session")
def build():
    """Makes a block, of scale 2, whose every weight matters: gates spread over 0 .. 1, LayerNorm weights around 1."""

    @cache
    def state(channels, form, layout, branches):
        with torch.random.fork_rng():
            torch.manual_seed(channels)  # the same whichever test comes first
            block = PolarizedSelfAttention(channels, layout, form, branches=branches, init="torch")
            with torch.no_grad():
                for name, parameter in block.named_parameters():
                    parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else channels**-0.5))
        return block.state_dict()

    def build(channels, form="paper", layout="parallel", dtype=torch.float32, impl="loops", branches="both"):
        block = PolarizedSelfAttention(channels, layout, form, impl, branches=branches, scale=2.0).to(dtype)
        block.load_state_dict(state(channels, form, layout, branches))
        return block

    return build


@pytest.fixture(scope="session")
def assert_near():
    """Holds results to at most twice the error of eager torch, where exact is the reference in float64."""

    def assert_near(got, eager, exact, dtype):
        dust = 1e-6 * max(
            truth.abs().max() for truth in exact
        )  # sums that cancel leave float32's, whatever eager leaves
        for one, theirs, truth in zip(got, eager, exact, strict=True):
            rounding = torch.finfo(dtype).eps * truth.abs().max()
            assert (one - truth).abs().max() <= 2 * (theirs - truth).abs().max() + rounding + dust

    return assert_near


@pytest.fixture
def _poison(monkeypatch):
    """Fresh memory holds NaN, so that what is not written shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, make=make, **kwargs: make(*args, **kwargs).fill_(float("nan")))
    monkeypatch.setattr(whole, "_floats", lambda count: torch.full((count,), float("nan")))


@pytest.fixture
def _fresh(monkeypatch, tmp_path):
    """No library loaded yet and an empty cache folder."""

    def forget():
        for function in (loops.why_not, loops.library, loops._load, whole._plan):
            function.cache_clear()

    forget()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield
    forget()


@pytest.fixture
def threads():
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
