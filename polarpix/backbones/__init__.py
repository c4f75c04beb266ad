"""Feature extractors with attention inside."""

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.backbones.insert import SITES, attention_blocks, insert_attention
from polarpix.backbones.weights import LoadReport, load_weights

__all__ = [
    "SITES",
    "Backbone",
    "LoadReport",
    "attention_blocks",
    "build_backbone",
    "insert_attention",
    "load_weights",
]
