"""Names of devices, and those that are none here."""

import pytest
import torch

from polarpix.devices import find_device
from polarpix.errors import InputError


def test_devices() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for bad in ("gpu", "nonsense", "cuda:99"):
        with pytest.raises(InputError, match=f"device '{bad}' cannot be used") as caught:
            find_device(bad)
        assert "\n" not in str(caught.value)
