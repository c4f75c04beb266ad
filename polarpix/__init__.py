"""Pixel-wise mapping with polarized self-attention.

The names below are fetched when they are first asked for, so that ``import polarpix`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polarpix.attention import build_attention
    from polarpix.backbones.insert import insert_attention
    from polarpix.predictor import load
    from polarpix.psa.block import PolarizedSelfAttention

    __version__: str

__all__ = ["PolarizedSelfAttention", "__version__", "build_attention", "insert_attention", "load"]

HOMES = {
    "PolarizedSelfAttention": "polarpix.psa.block",
    "build_attention": "polarpix.attention",
    "insert_attention": "polarpix.backbones.insert",
    "load": "polarpix.predictor",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("polarpix")
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'polarpix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
