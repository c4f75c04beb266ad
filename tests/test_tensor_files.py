"""safetensors with a checksum: every bit of a file counts, and files without one are read as before."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from polarpix.backbones.files import read_state_dict
from polarpix.errors import InputError
from polarpix.tensor_files import DIGEST, digest_of, packed, read_tensors

STATE: dict[str, Tensor] = {
    "weight": torch.arange(6.0).reshape(2, 3).t(),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "none": torch.zeros(0, 2),
}
TEXTS = {"labels": "[]", "name": "Ohr, länglich"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.safetensors").write_bytes(packed(STATE, TEXTS))
    return tmp_path / "a.safetensors"


def test_what_goes_in_comes_out(file: Path) -> None:
    state, texts = read_tensors(file, "copy it again")
    assert texts == TEXTS | {DIGEST: digest_of(STATE, TEXTS)}
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE)
    again = packed(state, texts)  # its own digest is no part of what is hashed
    assert sorted(again) == sorted(file.read_bytes())


@pytest.mark.parametrize(
    ("state", "texts"),
    [
        (STATE | {"count": torch.tensor(4)}, TEXTS),
        (STATE | {"count": torch.tensor(3, dtype=torch.int32)}, TEXTS),
        (STATE | {"weight": STATE["weight"].reshape(2, 3)}, TEXTS),
        (STATE | {"none": torch.zeros(2, 0)}, TEXTS),
        ({("more" if name == "none" else name): tensor for name, tensor in STATE.items()}, TEXTS),
        (STATE, TEXTS | {"labels": "{}"}),
        (STATE, {"label": "s[]", "name": TEXTS["name"]}),
    ],
)
def test_everything_counts(state: dict[str, Tensor], texts: dict[str, str]) -> None:
    assert digest_of(state, texts) != digest_of(STATE, TEXTS)
    assert digest_of(dict(reversed(STATE.items())), dict(reversed(TEXTS.items()))) == digest_of(STATE, TEXTS)


def test_a_bit_in_a_tensor_is_seen(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    for read in (lambda: read_tensors(file, "download it again"), lambda: read_state_dict(file)):
        with pytest.raises(InputError, match=r"a\.safetensors: altered since it was written, .*: download it again$"):
            read()


def test_files_without_a_digest_are_read(file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in STATE.items()}, file, TEXTS)
    state, texts = read_tensors(file, "copy it again")
    assert texts == TEXTS
    assert torch.equal(state["weight"], STATE["weight"])


def test_every_flip_is_refused_or_changes_nothing(file: Path) -> None:
    """Each bit of the header and the tensors, and some hundred cuts."""
    whole = file.read_bytes()
    refused: list[str] = []
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(data))
        try:
            state, _ = read_tensors(file, "copy it again")
        except InputError as error:
            refused.append(str(error))
        else:
            assert all(torch.equal(state[name], STATE[name]) for name in STATE), f"bit {bit}"
    assert not any("\n" in line for line in refused)
    assert len(refused) > 0.95 * 8 * len(whole)  # the rest: the name of the digest itself, spaces at the header's end
    rng = random.Random(0)
    for _ in range(100):
        file.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(InputError, match="not a readable safetensors file"):
            read_tensors(file, "copy it again")


def test_the_header_is_plain_safetensors(file: Path) -> None:
    """Other programs read it: the digest is a text among the metadata."""
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header["__metadata__"]) == {*TEXTS, DIGEST}
