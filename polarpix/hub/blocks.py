"""One block by itself: config.json, which says the function, and model.safetensors, its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from polarpix.errors import InputError
from polarpix.images import write_bytes
from polarpix.psa import PolarizedSelfAttention
from polarpix.tensor_files import packed, read_tensors
from polarpix.zoo import fetch, is_hub_id

__all__ = ["load_block", "save_block"]

CONFIG, TENSORS = "config.json", "model.safetensors"
ARGUMENTS = ("channels", "layout", "form", "branches", "scale")  # what makes the function; impl only its speed


def save_block(block: PolarizedSelfAttention, folder: str | Path) -> Path:
    """Write a block's arguments and weights into a folder, which is returned."""
    folder = Path(folder)
    arguments = {name: getattr(block, name) for name in ARGUMENTS}
    write_bytes(folder / TENSORS, packed(block.state_dict(), {"format": "pt"}))
    write_bytes(folder / CONFIG, (json.dumps(arguments, indent=2) + "\n").encode())
    return folder


def load_block(
    name: str | Path, impl: Literal["auto", "reference", "collapsed", "loops", "fused"] = "auto"
) -> PolarizedSelfAttention:
    """The block that :func:`save_block` wrote, from a folder or from "user/name" on the Hugging Face Hub.

    Raises:
        InputError: files that are missing, not readable or not of one block; as the Hub's downloads do.
    """
    if isinstance(name, str) and is_hub_id(name) and not Path(name).exists():
        config, tensors = fetch(name, [CONFIG, TENSORS])
    else:
        config, tensors = Path(name) / CONFIG, Path(name) / TENSORS
    arguments = read_arguments(config)
    state, _ = read_tensors(tensors, "write or download it again")
    try:
        block = PolarizedSelfAttention(**arguments, impl=impl)
        block.load_state_dict(state)
    except (RuntimeError, InputError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{tensors}: not the weights of the block in {CONFIG} ({reason}): write it again") from error
    return block


def read_arguments(config: Path) -> dict[str, Any]:
    """The arguments in a block's config.json."""
    try:
        arguments = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{config}: not readable ({error}): give a folder that save_block wrote") from error
    if not isinstance(arguments, dict) or set(arguments) != set(ARGUMENTS):
        raise InputError(f"{config}: must hold {', '.join(ARGUMENTS)}: give a folder that save_block wrote")
    return arguments
