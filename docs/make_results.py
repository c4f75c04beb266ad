"""Write the tables of the pages in PAGES from benchmarks/results/*.json: python docs/make_results.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
SPEED_PAGE = ROOT / "docs" / "speed.md"
CALIBRATION_PAGE = ROOT / "docs" / "calibration.md"
EXPORT_PAGE = ROOT / "docs" / "export.md"
PREDICTION_PAGE = ROOT / "docs" / "prediction.md"
RELIABILITY_PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

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


def read_records(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """File name -> record, in order of the names."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def split_of(record: dict[str, Any]) -> str:
    """The split's name, or the annotation file of a pose run, with the number of images."""
    protocol = record["protocol"]
    name = protocol.get("split") or Path(protocol["annotations"]).name
    return f"{name}, {protocol['images']} images"


def row(file: str, record: dict[str, Any], metrics: dict[str, tuple[str, int]]) -> list[str]:
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


def table(task: str, records: dict[str, dict[str, Any]]) -> list[str]:
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


def checks(records: dict[str, dict[str, Any]]) -> list[str]:
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


def demonstrations(records: dict[str, dict[str, Any]]) -> list[str]:
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


def ablation(file: str, record: dict[str, Any]) -> list[str]:
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


def tables(records: dict[str, dict[str, Any]]) -> str:
    """Everything between the two marks."""
    lines = [line for task in METRICS for line in table(task, records)]
    for file, record in records.items():
        if record.get("kind") == "bench accuracy":
            lines += ablation(file, record)
    lines += demonstrations(records) + checks(records)
    return "\n".join(lines or ["No run has been recorded yet.", ""])


def grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)] + [""]


def where(file: str, record: dict[str, Any]) -> str:
    """The conditions of a benchmark in one sentence."""
    told = record["conditions"]
    machine = f"{told['device']} ({told['cpu']}, {told['threads']} threads)" if told["device"] == "cpu" else told["gpu"]
    return (
        f"`{record['command']}` on {machine}, {record['protocol']['dtype']}, torch {told['torch']}, "
        f"at `{told['commit']}`, load before {told['load_before']}: `{file}`."
    )


def blocks(file: str, record: dict[str, Any]) -> list[str]:
    """Polarized self-attention in every implementation over all shapes: forward, and forward with backward."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for mean in record["tables"]["means"]:
        if mean["way"] == "eager":
            found.setdefault((mean["label"], mean["memory_format"]), {})[mean["mode"]] = mean
    rows = []
    for (label, memory_format), modes in found.items():
        cells = [label, memory_format]
        for mode in ("fwd", "fwdbwd"):
            one = modes.get(mode, {})
            for key in ("speedup", "least_speedup", "over_limit_large"):
                cells.append("–" if one.get(key) is None else f"{one[key]:.3g}")
        rows.append(cells)
    head = ["block", "memory format"]
    head += [f"{mode}: {column}" for mode in ("fwd", "fwd+bwd") for column in ("mean", "least", "time/limit, large")]
    return [f"### The block, {record['conditions']['device']}", "", where(file, record), "", *grid(head, rows)]


def networks(file: str, record: dict[str, Any]) -> list[str]:
    """Whole networks: time over that of the network without attention."""
    rows = []
    for one in record["tables"]["rows"]:
        for way, ratio in one["ratio"].items():
            cells = [one["network"], one["mode"], f"{one['batch']}", way, one["variant"], f"{ratio['median']:.3f}"]
            cells += [f"{ratio['low']:.3f} .. {ratio['high']:.3f}", f"{one['images_per_second'][way]:.3g}"]
            rows.append(cells)
    head = ["network", "mode", "images", "way", "attention", "time ratio", "quartiles", "images/s"]
    return [f"### Whole networks, {record['conditions']['device']}", "", where(file, record), "", *grid(head, rows)]


def exports(file: str, record: dict[str, Any]) -> list[str]:
    """An exported file's predictor beside loops over onnxruntime by hand."""
    head = ["network", "input"]
    rows = []
    for one in record["tables"]["rows"]:
        cells = [one["task"], one["input"]]
        for way, time in one["times"].items():
            head += [f"{way}, ms"] if not rows else []
            cells.append(f"{time['median']:.1f}")
        for way, ratio in one["ratio"].items():
            head += [f"time over {way}"] if not rows else []
            cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f} .. {ratio['high']:.2f})")
        rows.append(cells)
    return [where(file, record), "", *grid(head, rows)]


def overlaps(file: str, record: dict[str, Any]) -> list[str]:
    """What prediction waits for."""
    head = ["source", "frames", "network", "frames/s", "time over network alone", "network at work"]
    head += ["waits for decoding", "for drawing and writing", "meanwhile decoding", "drawing and writing"]
    rows = []
    for one in record["tables"]["rows"]:
        cells = [one["source"], f"{one['frames']}", one["network"], f"{one['frames_per_second']:.1f}"]
        cells.append(f"{one['seconds'] / one['alone_seconds']:.2f}")
        waits = [one["network_seconds"], one["waiting_to_decode"], one["waiting_to_write"]]
        cells += [f"{100 * seconds / one['seconds']:.0f}%" for seconds in waits]
        cells += [f"{one['decode']:.1f} s", f"{one['write']:.1f} s"]
        rows.append(cells)
    return [where(file, record), "", *grid(head, rows)]


Kinds = dict[str, Callable[[str, dict[str, Any]], list[str]]]
SPEED: Kinds = {"bench block": blocks, "bench model": networks}
EXPORT: Kinds = {"bench export": exports}
PREDICTION: Kinds = {"predict overlap": overlaps}


def benchmarks(kinds: Kinds, records: dict[str, dict[str, Any]]) -> str:
    """Everything between the marks of a page about speed."""
    lines = [
        line
        for kind, write in kinds.items()
        for file, record in records.items()
        if record.get("kind") == kind
        for line in write(file, record)
    ]
    return "\n".join(lines or ["No benchmark has been recorded yet.", ""])


def calibrations(records: dict[str, dict[str, Any]]) -> str:
    """Between the marks of the page about scores: their errors, and what ellipses held."""
    chosen = {file: one for file, one in records.items() if "ECE_uncalibrated" in one.get("metrics", {})}
    errors, held = [], []
    for file, one in chosen.items():
        metrics = one["metrics"]
        before, after = metrics["ECE_uncalibrated"], metrics["ECE"]
        of = [one["name"], one["split"], f"{before:.4f}", f"{after:.4f}", f"{before / after:.1f}", f"`{file}`"]
        errors.append(of)
        for name, gauss in metrics.items():
            claim, found, _ = name.removeprefix("coverage/").partition(" as a Gaussian")
            if found:
                share = f"{100 * metrics[f'coverage/{claim}']:.2f}%"
                held.append([one["name"], one["split"], claim, f"{100 * gauss:.2f}%", share, f"`{file}`"])
    if not errors:
        return "No evaluation of calibrated weights has been recorded yet.\n"
    head = ["run", "split", "ECE before", "ECE after", "before / after", "record"]
    lines = ["### Scores", "", *grid(head, errors)]
    if held:
        head = ["run", "split", "claimed", "held by the Gaussian", "held by the measured ellipse", "record"]
        lines += ["### Ellipses", "", *grid(head, held)]
    return "\n".join(lines)


def made_by(file: str, record: dict[str, Any]) -> str:
    """The command of a record, where and at which commit it ran."""
    told = record["conditions"]
    return f"`{record['command']}` on {told['device']}, seed {record['seed']}, at `{told['commit']}`: `{file}`."


def fuzzed(file: str, record: dict[str, Any]) -> list[str]:
    """Damaged files by reader, then attacks by kind: a record of benchmarks/fuzz_inputs.py."""
    columns = ("accepted", "refused in one line")
    rows, total, wrong = [], 0, 0
    for group in record["fuzz"].values():
        total, wrong = total + group["files"], wrong + group["files_answered_wrongly"]
        for reader, counts in group["readers"].items():
            other = sum(count for outcome, count in counts.items() if outcome not in columns)
            rows.append(
                [reader, *(f"{n:,}" for n in (sum(counts.values()), *(counts.get(c, 0) for c in columns), other))]
            )
    highest = max(group["highest_megabytes_of_a_file"] for group in record["fuzz"].values())
    kinds: dict[str, list[dict[str, Any]]] = {}
    for attack in record["attacks"]:
        kinds.setdefault(attack["name"].partition(":")[0], []).append(attack)
    attacks = []
    for kind, tried in kinds.items():
        counts = [sum(one["outcome"] == column for one in tried) for column in columns]
        right = sum(one["outcome"] == one["expected"] for one in tried)
        through = ", ".join(dict.fromkeys(one["through"] for one in tried))
        attacks.append([kind, through, *map(str, (len(tried), *counts, len(tried) - right))])
    bound = record["bound_megabytes"]
    most = max(one["megabytes"] for one in record["attacks"])
    return [
        "### Damaged files",
        "",
        f"{total:,} files, {wrong:,} of them answered wrongly (traceback, crash, hang, several lines, over {bound:,} "
        f"MB, written elsewhere). The most memory for one file was {highest:,.0f} MB. {made_by(file, record)}",
        "",
        *grid(["reader", "files", *columns, "wrong"], rows),
        "### Attacks",
        "",
        f"{len(record['attacks'])} attacks; nothing in a file was to be run, written elsewhere, or to take more than "
        f"{bound:,} MB; the most was {most:,.0f} MB. Harmless ones (1x1, a PNG called .jpg) are to be accepted. "
        f"`{file}`.",
        "",
        *grid(["what", "through", "attacks", *columns, "otherwise than it should"], attacks),
    ]


def exported(file: str, record: dict[str, Any]) -> list[str]:
    """Exported files damaged and made to do harm: a record of benchmarks/fuzz_exports.py."""
    same, refused = "accepted, gives the same", "refused in one line"
    rows = []
    for kind, counts in record["fuzz"]["files"].items():
        other = sum(count for outcome, count in counts.items() if outcome not in (same, refused))
        rows.append([kind, *map(str, (sum(counts.values()), counts.get(refused, 0), counts.get(same, 0), other))])
    tried: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in record["attacks"]:
        told = "metadata that lie" if one["name"].startswith("metadata") else "everything else"
        tried.setdefault((one["format"], told), []).append(one)
    attacked = []
    for (kind, told), ones in tried.items():
        count = sum(one["outcome"] == refused for one in ones)
        wrong = sum(one["outcome"] != one["expected"] for one in ones)
        ran = {one["name"] for one in ones if one.get("torch_alone") == "code was run"}
        alone = f"{len(ran)} ran code" if any("torch_alone" in one for one in ones) else ""
        attacked.append([kind, told, *map(str, (len({one["name"] for one in ones}), len(ones), count, wrong)), alone])
    most = max(record["fuzz"]["highest_megabytes_of_a_file"], *(one["megabytes"] for one in record["attacks"]))
    whole = sum(sum(counts.values()) for counts in record["fuzz"]["files"].values())
    return [
        "### Exported files",
        "",
        f"{whole:,} damaged files through `polarpix.load`, and {len(record['attacks'])} openings of files made to do "
        "harm, with checksums that fit, through `polarpix.load`, `predict` and `info`. Each was to be refused in one "
        "line, or to give what the whole file gives; no process was to end otherwise, nothing to be run or written, "
        "and no file to take more "
        f"than {record['bound_megabytes']:,} MB: the most was {most:,.0f}. {made_by(file, record)}",
        "",
        *grid(["damaged", "files", refused, same, "otherwise"], rows),
        *grid(["attacked", "by", "ways", "openings", refused, "otherwise than it should", "by torch alone"], attacked),
    ]


def drawn(file: str, record: dict[str, Any]) -> list[str]:
    """Files that Hypothesis damaged: a record of benchmarks/fuzz_hypothesis.py."""
    columns = ("accepted", "refused in one line")
    rows = [
        [reader, f"{sum(counts.values()):,}", *(f"{counts.get(column, 0):,}" for column in columns)]
        for reader, counts in record["readers"].items()
    ]
    said = f"Anything else would have stopped the run. The process took {record['highest_megabytes']:,} MB at most."
    head = ["reader", "files", *columns]
    return ["### Files damaged by Hypothesis", "", f"{said} {made_by(file, record)}", "", *grid(head, rows)]


def served(file: str, record: dict[str, Any]) -> list[str]:
    """What every kind of request was answered with: a record of benchmarks/serve_load.py."""
    rows = []
    for kind, one in record["kinds"].items():
        names = {"0": "connection closed"}
        answers = ", ".join(f"{names.get(status, status)}: {count:,}" for status, count in one["statuses"].items())
        rows.append([kind, f"{one['requests']:,}", answers, f"{one['p99_seconds']:.2f} s"])
    memory = record["memory_mb"]
    held = "; ".join(f"{words}: {'yes' if so else 'NO'}" for words, so in record["held"].items())
    return [
        "### The server under load",
        "",
        f"{record['requests']:,} requests of {record['clients']} clients in {record['seconds']:.0f} s, "
        f"{len(record['wrong'])} answered wrongly. Memory {memory['before']:.0f} MB before, {memory['highest']:.0f} at "
        f"most, {memory['after']:.0f} after. {held}. {made_by(file, record)}",
        "",
        *grid(["request", "count", "answers", "99 percent within"], rows),
    ]


def doctored(file: str, record: dict[str, Any]) -> list[str]:
    """A large set looked at: a record of benchmarks/data_check.py."""
    timed, data = record["time"], record["set"]
    found = ", ".join(f"{name} {count:,}" for name, count in record["found"].items())
    planted = f"leak_near {data['copies_between_splits']:,}"
    row = [f"{data['images']:,} and {data['labels']:,}", planted, found, f"{timed['seconds']} s"]
    head = ["images and labels", "planted", "found", "time"]
    said = f"At most {timed['limit_seconds']:.0f} s were asked for. {made_by(file, record)}"
    return ["### The data doctor", "", said, "", *grid(head, [row])]


def faulted(file: str, record: dict[str, Any]) -> list[str]:
    """Trainings under fault: a record of benchmarks/fault_injection.py."""
    rows = []
    for key, words in (("kill", "SIGKILL at a random moment, then resumed"), ("term", "SIGTERM, then resumed")):
        same = sum(one["weights_equal"] for one in record[key])
        rows.append([words, str(len(record[key])), f"{same} ended with the weights of an uninterrupted run", ""])
    for one in record["faults"]:
        if "outcome" in one:
            rows.append([one["fault"], "0", one["outcome"], ""])
            continue
        known = ("fault", "status", "line", "traceback")
        more = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in one.items() if key not in known)
        shown = "a traceback" if one["traceback"] else f"status {one['status']}, one line"
        rows.append([one["fault"], "1", f"{shown}; {more}", f"`{one['line']}`".replace("|", "/")])
    head = ["fault", "times", "outcome", "what is said"]
    return ["### Trainings under fault", "", made_by(file, record), "", *grid(head, rows)]


def silent(file: str, record: dict[str, Any]) -> list[str]:
    """What the doctor says of real sets: a record of benchmarks/doctor_real_sets.py."""
    rows = []
    for one in record["sets"]:
        images = f"{sum(one['images'].values()):,}"
        said = [[f["name"], f["level"], f"{f['count']:,}", f["looked_at"]] for f in one["findings"]]
        rows += [[one["set"], images, *cells] for cells in said or [["nothing", "–", "0", ""]]]
    head = ["set", "images", "finding", "level", "cases", "what was seen in them"]
    told = record["conditions"]
    where = f"`{record['command']}` on {told['device']}, at `{told['commit']}`: `{file}`."
    return ["### The data doctor on real sets", "", where, "", *grid(head, rows)]


# What a record is told by -> its section, in the order of the page.
RELIABILITY = {
    "fault injection": faulted,
    "fuzz_inputs": fuzzed,
    "fuzz_exports": exported,
    "fuzz_hypothesis": drawn,
    "serve_load": served,
    "data_check": doctored,
    "doctor_real_sets": silent,
}


def reliability(records: dict[str, dict[str, Any]]) -> str:
    """Everything between the marks of the page about reliability."""
    lines = [
        line
        for kind, write in RELIABILITY.items()
        for file, record in records.items()
        if kind in (record.get("kind"), record.get("name"))
        for line in write(file, record)
    ]
    return "\n".join(lines or ["Nothing has been recorded yet.", ""])


def filled(page: str, text: str) -> str:
    """The page with a new text between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the marks {BEGIN} and {END} are not both there: put them around the tables")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


PAGES = {
    PAGE: tables,
    SPEED_PAGE: partial(benchmarks, SPEED),
    EXPORT_PAGE: partial(benchmarks, EXPORT),
    CALIBRATION_PAGE: calibrations,
    PREDICTION_PAGE: partial(benchmarks, PREDICTION),
    RELIABILITY_PAGE: reliability,
}

if __name__ == "__main__":
    for path, write in PAGES.items():
        path.write_text(filled(path.read_text(encoding="utf-8"), write(read_records())), encoding="utf-8")
