"""Options of `polarpix bench block`: what they mean, and one line for what they cannot."""

from typing import Any

import pytest
import torch

from polarpix.attention import ATTENTION
from polarpix.bench.block_settings import SHAPES, Block, block_settings, parse_blocks, shelf, sweep_shapes
from polarpix.errors import InputError


def test_every_row_of_the_shelf_is_there_and_psa_in_each_implementation() -> None:
    labels = shelf()
    assert {block.name for block in labels.values()} == set(ATTENTION)
    assert all(label == block.label for label, block in labels.items())
    for name in ("psa_p", "psa_s", "psa_p_released", "psa_s_released", "psa_channel", "psa_spatial"):
        assert [b.impl for b in labels.values() if b.name == name] == ["reference", "collapsed", "loops", "fused"]
    assert labels["se"].impl is None


def test_blocks_by_name_or_label() -> None:
    assert parse_blocks("se,psa_s,psa_p:collapsed,se") == [
        Block("se"),
        Block("psa_s", "reference"),
        Block("psa_s", "collapsed"),
        Block("psa_s", "loops"),
        Block("psa_s", "fused"),
        Block("psa_p", "collapsed"),
    ]
    assert parse_blocks("") == list(shelf().values())
    module: Any = Block("psa_p", "reference").build(16)
    assert module.impl == "reference"


def test_defaults_follow_the_device() -> None:
    found = block_settings(device="cpu")
    assert found.device == torch.device("cpu")
    assert (found.dtype, found.shapes, found.compiled) == ("fp32", SHAPES["cpu"], [])
    assert (found.modes, found.formats) == (["fwd", "fwdbwd"], ["contiguous", "channels_last"])
    assert found.sweep is not None


def test_options() -> None:
    found = block_settings("cpu", "bf16", "1,2,3,4 5,6,7,8", "fwd", "se,psa_p", "channels_last", "se", "none", 0.1)
    assert found.shapes == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert (found.modes, found.formats, found.compiled, found.sweep) == (["fwd"], ["channels_last"], ["se"], None)
    assert block_settings("cpu", sweep="1,8,4,4").sweep == (1, 8, 4, 4)
    assert block_settings("cpu", compiled="none").compiled == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shapes": "4,64,64"}, "--shapes holds '4,64,64': a shape is B,C,H,W"),
        ({"shapes": "4,0,8,8"}, "whole numbers above 0"),
        ({"shapes": "4,a,8,8"}, "whole numbers above 0"),
        ({"sweep": "1"}, "--sweep holds '1'"),
        ({"blocks": "psa"}, "--blocks names 'psa': choose among none, psa_p:reference"),
        ({"blocks": "se", "compiled": "psa_p:reference"}, "--compile names 'psa_p:reference': choose among se"),
        ({"blocks": ","}, "--blocks ',' names nothing: choose among none, psa_p:reference"),
        ({"mode": "bwd"}, "--mode names 'bwd'"),
        ({"dtype": "fp64"}, "--dtype names 'fp64': choose among fp32, bf16, fp16"),
        ({"formats": "nhwc"}, "--formats names 'nhwc'"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"seconds": 0.0}, "--seconds 0.0: give a time above 0"),
        ({"seconds": float("nan")}, "--seconds nan: give a time above 0"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        block_settings(**({"device": "cpu"} | options))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sweep_doubles_pixels_then_channels() -> None:
    shapes = sweep_shapes((2, 8, 4, 6))
    assert shapes == [
        (2, 8, 4, 6),
        (2, 8, 8, 6),
        (2, 8, 8, 12),
        (2, 8, 16, 12),
        (2, 16, 4, 6),
        (2, 32, 4, 6),
        (2, 64, 4, 6),
    ]
