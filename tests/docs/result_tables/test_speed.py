"""The rows of docs/speed.md."""

from result_tables.speed import tables

CONDITIONS = {"device": "cpu", "cpu": "X", "threads": 2, "torch": "9", "commit": "abc", "load_before": 0.1}


def test_benchmarks_become_rows() -> None:
    mean = {"label": "psa_p:loops", "memory_format": "contiguous", "way": "eager"}
    means = [
        mean | {"mode": "fwd", "speedup": 12.34, "least_speedup": 7.0, "over_limit_large": 3.5},
        mean | {"mode": "fwdbwd", "speedup": None, "least_speedup": 6.0, "over_limit_large": 9.0},
    ]
    ratio = {"median": 1.0812, "low": 1.07, "high": 1.1}
    row = {"network": "net", "mode": "infer", "batch": 1, "variant": "se", "ratio": {"eager": ratio}}
    base = {"command": "polarpix bench", "conditions": CONDITIONS, "protocol": {"device": "cpu", "dtype": "fp32"}}
    text = tables(
        {
            "b.json": base | {"kind": "bench block", "tables": {"means": means}},
            "m.json": base
            | {"kind": "bench model", "tables": {"rows": [row | {"images_per_second": {"eager": 10.5}}]}},
            "other.json": {"kind": "bench kernels"},
        },
    )
    assert "| psa_p:loops | contiguous | 12.3 | 7 | 3.5 | – | 6 | 9 |" in text
    assert "| net | infer | 1 | eager | se | 1.081 | 1.070 .. 1.100 | 10.5 |" in text
    assert "on cpu (X, 2 threads), fp32, torch 9, at `abc`, load before 0.1: `b.json`." in text


def test_on_a_gpu_every_shape_is_a_row() -> None:
    row = {"shape": [2, 48, 5, 3], "mode": "fwd", "memory_format": "contiguous", "block": "psa_p", "impl": "fused"}
    row |= {"limit_ms": 0.01, "peak_maps": 1.02, "times": {"eager": {"median": 0.1}, "graph": {"median": 0.0125}}}
    text = tables(
        {
            "g.json": {
                "kind": "bench block",
                "command": "polarpix bench",
                "conditions": CONDITIONS | {"device": "NVIDIA H200"},
                "protocol": {"device": "cuda", "dtype": "bf16"},
                "tables": {"means": [], "rows": [row, row | {"block": "se", "impl": None, "times": {}}]},
            }
        }
    )
    assert "| 2x48x5x3 | fwd | contiguous | psa_p:fused | 10 | 100 | 12.5 | – | – | 1.25 | 1.02 |" in text
    assert "| 2x48x5x3 | fwd | contiguous | se | 10 | – | – | – | – | – | 1.02 |" in text
    assert "on NVIDIA H200, bf16" in text
