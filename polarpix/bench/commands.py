"""What each command of ``polarpix bench`` does. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

from collections.abc import Sequence

from polarpix.errors import InputError

__all__ = ["accuracy", "block", "export", "kernels", "model"]


def block(
    device: str = "auto",
    dtype: str = "auto",
    shapes: str = "",
    mode: str = "all",
    blocks: str = "",
    formats: str = "",
    compile: str = "auto",
    sweep: str = "",
    seconds: float = 0.25,
    json: str = "",
) -> int:
    """Time attention blocks against the time their bytes must take; launches, memory, scaling.

    Args:
        device: auto, cpu, cuda, cuda:1, ...
        dtype: fp32, bf16 or fp16; auto is bf16 on CUDA, fp32 on the CPU.
        shapes: B,C,H,W, several apart by spaces; by default those of the device's table.
        mode: fwd, fwdbwd (forward, then all gradients) or all.
        blocks: comma list of rows of the shelf, or of one implementation as psa_p:collapsed; by default all.
        formats: contiguous, channels_last or both by a comma; by default both.
        compile: comma list of blocks that torch.compile gets too, or none; auto is the main ones on CUDA, else none.
        sweep: smallest B,C,H,W of the scaling sweep, none, or by default that of the device.
        seconds: time for one block on one shape.
        json: FILE.json for the record; FILE.md and FILE.png go beside it.
    """
    from polarpix.bench.block import bench_block
    from polarpix.bench.block_settings import block_settings

    settings = block_settings(device, dtype, shapes, mode, blocks, formats, compile, sweep, seconds)
    print(bench_block(settings, json))
    return 0


def model(
    device: str = "auto",
    dtype: str = "auto",
    models: str = "",
    mode: str = "all",
    attention: str = "",
    format: str = "channels_last",
    onnx: bool = False,
    alone: bool = False,
    batch: int = 0,
    rounds: int = 0,
    json: str = "",
) -> int:
    """Time a training step and an inference of whole networks with and without attention; images/s, memory.

    Args:
        device: auto, cpu, cuda, cuda:1, ...
        dtype: fp32, or bf16 or fp16 by autocast; auto is bf16 on CUDA, fp32 on the CPU.
        models: comma list of resnet50_pose, hrnet_w32_pose, hrnet_w48_pose, hrnet_w48_seg, mobilenetv2_seg.
        mode: train, infer or all.
        attention: comma list of rows of the shelf, or of one implementation as psa_p:collapsed; none is always there.
        format: contiguous or channels_last.
        onnx: time the networks exported to ONNX Runtime, too.
        alone: leave out the networks of other libraries.
        batch: images; 0 for those of the table.
        rounds: samples of each network; 0 for those of the device.
        json: FILE.json for the record; FILE.md and FILE.png go beside it.
    """
    from polarpix.bench.model import bench_model, model_settings

    settings = model_settings(
        device, dtype, models, mode, attention, format, onnx, others=not alone, batch=batch, rounds=rounds
    )
    print(bench_model(settings, json))
    return 0


def kernels(static: bool = False, maps: str = "", json: str = "", workers: int = 1) -> int:
    """Report on the compiled kernels: registers, spills, width of every access, bytes moved, predicted time.

    Args:
        static: compile for architectures that need not be here, and run nothing.
        maps: B,C,H,W, several apart by spaces; by default a grid of every kind of tile there is.
        json: FILE.json for the report.
        workers: processes that compile. What Triton's cache holds is not compiled again.
    """
    from polarpix.bench.kernels import kernels as report

    return report(static, maps, json, workers)


def export(rounds: int = 0, json: str = "") -> int:
    """Time the predictor of an exported ONNX file beside loops over onnxruntime written by hand, on the CPU.

    Args:
        rounds: samples of each way; 0 for the default.
        json: FILE.json for the record; FILE.md goes beside it.
    """
    from polarpix.bench.exporting import bench_export

    print(bench_export(json, rounds))
    return 0


def accuracy(
    config: str = "",
    attention: str = "",
    seeds: int = 3,
    split: str = "",
    jobs: int = 1,
    json: str = "",
    options: Sequence[str] = (),
) -> int:
    """Train a page with each attention and several seeds: mean, deviation, paired difference to none, and costs.

    What is done is kept and not repeated: the same command goes on after an interruption.

    Args:
        config: the page, a YAML file; see configs/.
        attention: comma list of rows of the shelf, or of one with an init as psa_s:identity; by default all; none is
            always there.
        seeds: how many, from the page's seed on.
        split: val or test; by default test where the page names one.
        jobs: trainings at once; each gets its share of the threads, and a GPU of its own where there are several.
        json: FILE.json for the record; FILE.md and FILE.png go beside it. By default ablation.json beside the runs.
    """
    if not config:
        raise InputError("bench accuracy needs --config PAGE: take one from configs/")
    from polarpix.bench.accuracy import accuracy_settings, bench_accuracy
    from polarpix.pages import load_page

    settings = accuracy_settings(load_page(config, options), attention, seeds, split, jobs)
    print(bench_accuracy(settings, json))
    return 0
