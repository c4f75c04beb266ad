"""Pixel-wise mapping with polarized self-attention."""
