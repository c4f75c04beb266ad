"""Models as others get them: with a card, in a folder, on the Hugging Face Hub."""

from polarpix.hub.blocks import load_block, save_block
from polarpix.hub.card import Facts, model_card
from polarpix.hub.share import push, save_pretrained

__all__ = ["Facts", "load_block", "model_card", "push", "save_block", "save_pretrained"]
