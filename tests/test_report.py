"""Values as they are read, and as JSON can hold them."""

import math

import numpy as np
import pytest

from polarpix.report import Change, Share, plain, shown


@pytest.mark.parametrize(
    ("value", "alone", "even"),
    [
        (0.69, "0.69", "0.6900"),
        (0.123456, "0.1235", "0.1235"),
        (0.0123456, "0.01235", "0.0123"),
        (0.00123456, "0.001235", "0.001235"),
        (0.0, "0", "0.0000"),
        (12345.6, "12,346", "12,346"),
        (7, "7", "7"),
        (np.int64(1000), "1,000", "1,000"),
        (np.float64(0.5), "0.5", "0.5000"),
        (True, "yes", "yes"),
        (None, "–", "–"),
        (math.inf, "–", "–"),
        ("text", "text", "text"),
    ],
)
def test_values_are_rounded_for_reading(value: object, alone: str, even: str) -> None:
    assert (shown(value), shown(value, even=True)) == (alone, even)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (math.nan, None),
        (np.float64(-math.inf), None),
        (Share(0.25), 0.25),
        (Change(-0.5), -0.5),
        (Change(0.125, True, 0.75), 0.75),
        (None, None),
        (True, True),
        ([1, 2], "[1, 2]"),
    ],
)
def test_json_gets_numbers_or_null(value: object, kept: object) -> None:
    found = plain(value)
    assert found == kept
    assert not isinstance(found, np.generic)
