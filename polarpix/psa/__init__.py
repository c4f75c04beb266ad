"""Polarized self-attention: the four functions, exact and cheap."""
