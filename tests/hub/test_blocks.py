"""A block that was written is the same function when it is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.errors import InputError
from polarpix.hub import blocks
from polarpix.hub.blocks import load_block, save_block
from polarpix.psa import PolarizedSelfAttention


@pytest.mark.parametrize(
    "arguments",
    [
        {"layout": "parallel", "form": "paper"},
        {"layout": "sequential", "form": "released", "scale": 3.0},
        {"layout": "sequential", "form": "paper", "branches": "channel"},
    ],
)
def test_a_block_comes_back(arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = PolarizedSelfAttention(16, init="torch", **arguments)
    assert save_block(block, tmp_path / "block") == tmp_path / "block"
    x = torch.randn(1, 16, 5, 7)
    found = load_block(tmp_path / "block", impl="reference")
    assert found.impl == "reference"
    torch.testing.assert_close(found(x), block(x))
    asked: list[str] = []

    def fetch(repo: str, names: list[str]) -> list[Path]:
        asked.append(repo)
        return [tmp_path / "block" / name for name in names]

    monkeypatch.setattr(blocks, "fetch", fetch)
    torch.testing.assert_close(load_block("somebody/block")(x), block(x))
    assert asked == ["somebody/block"]


def test_what_is_no_block(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.json: not readable .*give a folder that save_block wrote"):
        load_block(tmp_path)
    save_block(PolarizedSelfAttention(16), tmp_path)
    page = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(page | {"channels": 8}))
    with pytest.raises(InputError, match=r"model.safetensors: not the weights of the block in config.json"):
        load_block(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"channels": 16}))
    with pytest.raises(InputError, match="must hold channels, layout, form, branches, scale"):
        load_block(tmp_path)
