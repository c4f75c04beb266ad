"""docs/results.md: evaluations of either task, ablations, demonstrations and checks."""

from __future__ import annotations

from pathlib import Path

from result_tables.parts import Record, Records, grid

__all__ = ["tables"]

# Column -> metric and the factor it is shown with; OKS AP and IoU are shown in percent, as the field does.
METRICS = {
    "pose": {
        "AP": ("AP", 100),
        "AR": ("AR", 100),
        "PCK@0.2": ("PCK@0.2", 100),
        "mean error, px": ("mean_error", 1),
        "RMSE, px": ("RMSE", 1),
    },
    "seg": {"mIoU": ("mIoU", 100), "pixel accuracy": ("pixel_accuracy", 100)},
}
TITLES = {"pose": "Keypoints", "seg": "Masks"}


def split_of(record: Record) -> str:
    """The split's name, or the annotation file of a pose run, with the number of images."""
    protocol = record["protocol"]
    name = protocol.get("split") or Path(protocol["annotations"]).name
    return f"{name}, {protocol['images']} images"


def row(file: str, record: Record, metrics: dict[str, tuple[str, int]]) -> list[str]:
    """The cells of one record; a metric it does not have is a dash."""
    config, conditions = record["config"], record["conditions"]
    values = [record["metrics"].get(name) for name, _ in metrics.values()]
    shown = [
        "–" if value is None else f"{factor * value:.2f}"
        for value, (_, factor) in zip(values, metrics.values(), strict=True)
    ]
    boxes = [str(record["protocol"]["boxes"])] if config["task"] == "pose" else []
    return [
        record["name"],
        config["model"]["backbone"]["attention"],
        str(record["seed"]),
        str(record.get("training", {}).get("epochs", "–")),
        split_of(record),
        *boxes,
        *shown,
        f"`{conditions.get('weights_commit') or 'unknown'}`",
        f"`{file}`",
    ]


def table(task: str, records: Records) -> list[str]:
    """One Markdown table of the records of a task; empty if there are none."""
    chosen = {file: record for file, record in records.items() if record.get("config", {}).get("task") == task}
    if not chosen:
        return []
    metrics = {
        title: metric
        for title, metric in METRICS[task].items()
        if any(metric[0] in record["metrics"] for record in chosen.values())
    }
    boxes = ["boxes"] if task == "pose" else []
    head = ["run", "attention", "seed", "epochs", "split", *boxes, *metrics, "trained at", "record"]
    cells = [head, ["---"] * len(head), *(row(file, record, metrics) for file, record in chosen.items())]
    return [f"### {TITLES[task]}", "", *("| " + " | ".join(line) + " |" for line in cells), ""]


def checks(records: Records) -> list[str]:
    """The records of benchmarks/coco_protocol.py, our AP beside pycocotools' on real annotations; empty if none."""
    rows = [
        f"| `{file}` | {case} | {100 * one['polarpix']['AP']:.2f} | {100 * one['pycocotools']['AP']:.2f} "
        f"| {one['largest_difference']:.1e} |"
        for file, record in records.items()
        if "config" not in record and "metrics" in record
        for case, one in record["metrics"].items()
    ]
    head = [
        "### OKS AP against pycocotools",
        "",
        "Annotated keypoints moved by Gaussian noise, as predictions; the largest difference of COCO's ten figures.",
        "",
        "| record | predictions | AP here | AP of pycocotools | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    return [*head, *rows, ""] if rows else []


def demonstrations(records: Records) -> list[str]:
    """The records of ``polarpix demo --record``; empty if there are none."""
    rows = []
    for file, record in records.items():
        if "runs" not in record:
            continue
        pose, seg = (record["runs"][task]["metrics"] for task in ("pose", "seg"))
        found = (100 * pose["AP"], 100 * pose["PCK@0.2"], 100 * seg["mIoU"], 100 * seg["pixel_accuracy"])
        cells = [record["command"], str(record["seed"]), record["conditions"]["device"], f"{record['seconds']:.0f} s"]
        cells += [f"{value:.2f}" for value in found]
        rows.append("| " + " | ".join([*cells, f"`{record['conditions']['commit'] or 'unknown'}`", f"`{file}`"]) + " |")
    head = ["command", "seed", "device", "time", "AP", "PCK@0.2", "mIoU", "pixel accuracy", "commit", "record"]
    lines = ["### The demonstration", "", "| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return [*lines, *rows, ""] if rows else []


def ablation(file: str, record: Record) -> list[str]:
    """What each attention gained over seeds, and what it costs: a record of ``polarpix bench accuracy``."""
    protocol, rows = record["protocol"], []
    for one in record["tables"]["rows"]:
        apart, costs = one["difference"], one["costs"] or {}
        bounds = None if apart is None or apart["low"] is None else (apart["low"], apart["high"])
        ratio, params = costs.get("step_ratio"), costs.get("params")
        rows.append(
            [
                one["attention"],
                str(len(one["seeds"])),
                f"{one['mean']:.4f}",
                "–" if one["deviation"] is None else f"{one['deviation']:.4f}",
                "–" if apart is None else f"{apart['mean']:+.4f}",
                "–" if bounds is None else f"{bounds[0]:+.4f} .. {bounds[1]:+.4f}",
                "–" if params is None else f"{params / 1e6:.3f}",
                "–" if ratio is None else f"{ratio['median']:.2f}",
            ]
        )
    head = ["attention", "seeds", "mean", "deviation", "difference to none", "95 percent interval"]
    head += ["params, M", "step time over none"]
    said = f"{protocol['metric']}. {protocol['network']}; {protocol['training']}. `{record['command']}`: `{file}`."
    return [f"### Attention on {protocol['page']}", "", said, "", *grid(head, rows)]


def tables(records: Records) -> str:
    """Everything between the two marks."""
    lines = [line for task in METRICS for line in table(task, records)]
    for file, record in records.items():
        if record.get("kind") == "bench accuracy":
            lines += ablation(file, record)
    lines += demonstrations(records) + checks(records)
    return "\n".join(lines or ["No run has been recorded yet.", ""])
