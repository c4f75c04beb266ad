"""Kernel tests without a GPU run in Triton's interpreter."""

from types import SimpleNamespace

import pytest
import torch


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
