"""Polarized self-attention: the four functions, exact and cheap."""

from polarpix.psa.block import PolarizedSelfAttention

__all__ = ["PolarizedSelfAttention"]
