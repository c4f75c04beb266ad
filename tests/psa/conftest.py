"""What tests of several implementations share. Kernel tests without a GPU run in Triton's interpreter."""

import dataclasses
from contextlib import contextmanager
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


@pytest.fixture(scope="session")
def steps():
    """The paper's formulas step by step, in float64, with every vector by its letter in psa/tiles.py.

    Takes a map [B, C, P], weights by the names of launch.PARAMETERS, form and layout; gives out and the vectors.
    """

    def steps(x, W, form, layout, scale):
        paper, sequence = form == "paper", layout == "sequential"

        def bias(name):
            return W[name] if paper else 0.0

        a = torch.softmax(torch.einsum("c,bcp->bp", W["W_q"], x), 1)
        one = {"c": torch.einsum("bp,bcp->bc", a, x), "m": x.mean(2)}
        one["v"] = one["c"] @ W["W_v"].T + bias("b_v")
        one["z"] = one["v"] @ W["W_z"].T + bias("b_z")
        one["n"] = one["z"]
        if paper:
            one["zhat"] = torch.layer_norm(one["z"], one["z"].shape[1:])
            one["n"] = one["zhat"] * W["ln_weight"] + W["ln_bias"]
        one["g"] = torch.sigmoid(one["n"])
        one["y"] = one["g"] * one["m"] if sequence else one["m"] * 1.0
        one["q"] = one["y"] @ W["W_q2"].T + bias("b_q2")
        one["t"] = torch.softmax(one["q"], 1) if paper else one["q"] * 1.0
        one["u"] = one["t"] @ W["W_v2"]
        one["beta"] = one["t"] @ W["b_v2"] if paper else torch.zeros_like(one["t"][:, 0])
        gated = one["u"] * one["g"] if sequence else one["u"]
        e = torch.einsum("bc,bcp->bp", gated, x) + one["beta"][:, None]
        one["e"] = e
        s = torch.sigmoid(e if paper else torch.softmax(e, 1))[:, None]
        g = one["g"][:, :, None]
        return scale * (x * g * s if sequence else x * g + x * s), one

    return steps


@pytest.fixture(scope="session")
def weights_of():
    """Weights of an operator call by name, in float64."""

    def weights_of(channels, form, device):
        from polarpix.psa import launch

        C, h = channels, channels // 2
        shapes = {"W_q": (C,), "W_v": (h, C), "W_z": (C, h), "W_q2": (h, C), "W_v2": (h, C)}
        shapes |= dict.fromkeys(("b_v", "b_q2", "b_v2"), (h,)) | dict.fromkeys(("b_z", "ln_weight", "ln_bias"), (C,))
        generator = torch.Generator().manual_seed(channels)
        return {
            name: torch.randn(shapes.get(name, (1,)), generator=generator, dtype=torch.float64).to(device)
            for name in launch.PARAMETERS[form]
        }

    return weights_of


@pytest.fixture
def shared(monkeypatch):
    """Has so many programs share a sample between the passes, with blocks so small that each takes several."""

    def shared(together, small):
        from polarpix.psa import launch

        def plan(*args):
            one = real(*args)
            tiles = dataclasses.replace(one.first, K=2, T=4, V=1)
            return dataclasses.replace(
                one, first=tiles, between=tiles, second=tiles, S=together, BR=2, BZ=2, BU=4, BS=2, small=small
            )

        real = launch.plan
        monkeypatch.setattr(launch, "plan", plan)

    return shared


@pytest.fixture(scope="session")
def stages_at():
    """Has the interpreter launch a kernel once with all its stages, or once for each; notes what it was given, and at
    which stages it began.
    """

    @contextmanager
    def stages_at(kernel, stages, once):
        from triton.runtime import interpreter

        given, begun = [], []
        call = interpreter.GridExecutor.__call__

        def anew(self, *args, **more):
            if self.fn.__name__ != kernel:
                call(self, *args, **more)
            elif not more["BEGIN"]:
                given.append(dict(zip(self.arg_names, args, strict=False)))
                for begin in [0] if once else range(stages):
                    begun.append(begin)
                    call(self, *args, **more | {"BEGIN": begin, "END": stages if once else begin + 1})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interpreter.GridExecutor, "__call__", anew)
            yield given, begun

    return stages_at


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
