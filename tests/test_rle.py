"""Run-length codes of masks, letter by letter those of COCO's own encoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as masks

from polarpix.rle import encode_mask

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 30))


def coco(mask: np.ndarray) -> dict[str, object]:
    found = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


@given(arrays.arrays(np.bool_, SHAPES))
@settings(deadline=None, max_examples=200)
def test_every_mask_is_coded_as_coco_codes_it(mask: np.ndarray) -> None:
    assert encode_mask(mask) == coco(mask)


@pytest.mark.parametrize("full", [False, True])
def test_long_runs_take_many_letters(full: bool) -> None:
    mask = np.full((1500, 2000), full)
    assert encode_mask(mask) == coco(mask)
    mask[700:, 3] = not full
    assert encode_mask(mask) == coco(mask)
