"""The names of the package: there when asked for, and not a moment before."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import polarpix
from polarpix.attention import build_attention
from polarpix.backbones.insert import insert_attention
from polarpix.predictor import load
from polarpix.psa.block import PolarizedSelfAttention


def test_the_names_are_those_of_their_homes() -> None:
    assert polarpix.load is load
    assert polarpix.PolarizedSelfAttention is PolarizedSelfAttention
    assert polarpix.insert_attention is insert_attention
    assert polarpix.build_attention is build_attention
    assert polarpix.__version__ == version("polarpix")
    assert set(polarpix.__all__) <= set(dir(polarpix))
    assert all(getattr(polarpix, name) for name in polarpix.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        polarpix.lod  # noqa: B018  # looked up to fail


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import polarpix, sys; print(polarpix.__version__); print([m for m in sys.modules if m in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [polarpix.__version__, "[]"]
