"""Devices by the names that users give them."""

from __future__ import annotations

import torch

from polarpix.errors import InputError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device of that name, or a GPU if there is one for "auto".

    Raises:
        InputError: no such device, or none on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}): choose auto, cpu or cuda") from error
    return place
