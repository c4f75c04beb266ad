"""The command: its options and what it prints."""

import pytest

from polarpix.bench import kernels
from polarpix.bench.kernels_jobs import CARDS
from polarpix.bench.kernels_page import Compiled, Whole
from polarpix.errors import InputError


def test_without_static_there_is_nothing_to_do():
    with pytest.raises(InputError, match="add --static"):
        kernels.kernels()
    with pytest.raises(InputError, match="--workers -1: give at least 1"):
        kernels.kernels(static=True, workers=-1)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ("32,64,64", "--maps holds '32,64,64': a shape is B,C,H,W"),
        ("1,2,3,4 1,2,3,x", "--maps holds '1,2,3,x'"),
        ("1,0,3,4", "--maps holds '1,0,3,4'"),
        ("1,3,5,5", "--maps holds 1,3,5,5: .* even channels"),
    ],
)
def test_maps_that_mean_nothing(maps, said):
    with pytest.raises(InputError, match=said):
        kernels.kernels(static=True, maps=maps)


def test_own_maps_take_the_place_of_the_grid(monkeypatch, capsys):
    """Each dtype compiles them; the times are those of bfloat16, and of both dtypes where odd meets even."""
    asked = []

    def compile_all(grid, workers):
        asked.append(grid)
        return [
            Compiled("scale", "paper", "parallel", "bf16", 48, 2961, "contiguous", "", "sm_90", 40, 0, False, 1024, 256,
                     0.5, [2], [2])
        ]  # fmt: skip

    def wholes(maps, dtypes=("bf16",), workers=1):
        times = {card.name: 1.0 for card in CARDS}
        return [
            Whole(
                list(shape),
                dtype,
                "contiguous",
                "paper",
                "forward",
                3,
                3,
                3,
                1.0,
                times,
                times,
                dict.fromkeys(times, "bytes"),
            )
            for shape in maps
            for dtype in dtypes
        ]

    monkeypatch.setattr(kernels, "compile_all", compile_all)
    monkeypatch.setattr(kernels, "wholes", wholes)
    assert kernels.kernels(static=True, maps="32,48,63,47 32,48,64,46 32,48,63,47") == 0
    pair = [(32, 48, 63, 47), (32, 48, 64, 46)]
    assert asked == [{"bf16": pair, "fp16": pair, "fp32": pair}]
    page = capsys.readouterr().out
    assert "## Odd numbers of pixels" in page
    assert [line.split("|")[1:4] for line in page.splitlines() if line.count("48x6") == 2] == [
        [" 32x48x63x47 ", " 32x48x64x46 ", f" {dtype}  "] for dtype in ("bf16", "fp32")
    ]
