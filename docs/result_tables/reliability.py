"""docs/reliability.md: faults, damaged files, attacks, load, and the data doctor."""

from __future__ import annotations

from result_tables.parts import Kinds, Record, Records, grid, made_by

__all__ = ["tables"]


def fuzzed(file: str, record: Record) -> list[str]:
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
    kinds: dict[str, list[Record]] = {}
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


def exported(file: str, record: Record) -> list[str]:
    """Exported files damaged and made to do harm: a record of benchmarks/fuzz_exports.py."""
    same, refused = "accepted, gives the same", "refused in one line"
    rows = []
    for kind, counts in record["fuzz"]["files"].items():
        other = sum(count for outcome, count in counts.items() if outcome not in (same, refused))
        rows.append([kind, *map(str, (sum(counts.values()), counts.get(refused, 0), counts.get(same, 0), other))])
    tried: dict[tuple[str, str], list[Record]] = {}
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


def drawn(file: str, record: Record) -> list[str]:
    """Files that Hypothesis damaged: a record of benchmarks/fuzz_hypothesis.py."""
    columns = ("accepted", "refused in one line")
    rows = [
        [reader, f"{sum(counts.values()):,}", *(f"{counts.get(column, 0):,}" for column in columns)]
        for reader, counts in record["readers"].items()
    ]
    said = f"Anything else would have stopped the run. The process took {record['highest_megabytes']:,} MB at most."
    head = ["reader", "files", *columns]
    return ["### Files damaged by Hypothesis", "", f"{said} {made_by(file, record)}", "", *grid(head, rows)]


def served(file: str, record: Record) -> list[str]:
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


def doctored(file: str, record: Record) -> list[str]:
    """A large set looked at: a record of benchmarks/data_check.py."""
    timed, data = record["time"], record["set"]
    found = ", ".join(f"{name} {count:,}" for name, count in record["found"].items())
    planted = f"leak_near {data['copies_between_splits']:,}"
    row = [f"{data['images']:,} and {data['labels']:,}", planted, found, f"{timed['seconds']} s"]
    head = ["images and labels", "planted", "found", "time"]
    said = f"At most {timed['limit_seconds']:.0f} s were asked for. {made_by(file, record)}"
    return ["### The data doctor", "", said, "", *grid(head, [row])]


def faulted(file: str, record: Record) -> list[str]:
    """Trainings under fault: a record of benchmarks/fault_injection.py."""
    rows = []
    for one in record["rows"]:
        held = "; ".join(f"{words}: {'yes' if so else '**NO**'}" for words, so in one["held"].items())
        outcome = f"not tried: {one['not_tried']}" if "not_tried" in one else counted(one.get("runs", [])) + held
        said = f"`{one['line']}`".replace("|", "/") if one.get("line") else ""
        rows.append([one["fault"], str(one["times"]), outcome, said, f"`{one['conditions']['commit']}`"])
    calls = sorted({f"`{one['command']}`" for one in record["rows"]})
    places = sorted({f"{one['conditions']['device']}, seed {one['seed']}" for one in record["rows"]})
    told = f"Made by {', '.join(calls)} on {'; '.join(places)}, each row at the commit it names: `{file}`."
    head = ["fault", "times", "what was to hold: whether it did", "what is said", "at"]
    return ["### Trainings under fault", "", told, "", *grid(head, rows)]


def counted(runs: list[Record]) -> str:
    """How many of some interrupted trainings had what behind them, and how many went on as if nothing had been."""
    if not runs:
        return ""
    early = sum(one["updates_kept"] is None for one in runs)
    behind = sum(one["updates_done"] == one["updates"] for one in runs)
    equal, loading = sum(one["weights_equal"] for one in runs), sum(one["workers"] > 0 for one in runs)
    return (
        f"{equal} of {len(runs)} ended with the weights of an uninterrupted run; {early} were struck before the first "
        f"checkpoint, {behind} behind the last update, {loading} had a loading process; "
    )


def silent(file: str, record: Record) -> list[str]:
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


def recalled(file: str, record: Record) -> list[str]:
    """Faults planted in real sets: a record of benchmarks/doctor_recall.py."""
    rows = []
    for one in record["rows"]:
        share = f"{one['found'] / one['planted']:.0%}" if one["planted"] else "–"
        cells = (one["planted"], one["found"], one["only_noted"] + one["otherwise_named"], one["false_alarms"])
        draws = f"{one['rate']:.1%}" + (f", {one['draws']} draws" if one["draws"] > 1 else "")
        rows.append([one["set"], one["fault"], draws, *(f"{cell:,}" for cell in cells), share])
    sizes = ", ".join(f"{name} {count:,}" for name, count in record["instances"].items())
    said = (
        f"Faults planted in copies of real sets (instances: {sizes}); what the doctor says of the untouched set is not "
        "counted. False alarms are warnings and errors of anything else that the untouched set does not get; they were "
        "not looked at one by one. A body without a face looks from ahead, all its pairs exchanged, as it does from "
        "behind: that cannot be told. One with a face is told where enough poses have both eyes labelled (60); where "
        f"many are, by a note, which counts as told otherwise. {made_by(file, record)}"
    )
    head = ["set", "planted", "share", "cases", "found", "told otherwise", "false alarms", "recall"]
    return ["### What the data doctor finds", "", said, "", *grid(head, rows)]


def homeward(file: str, record: Record) -> list[str]:
    """Annotations through other formats and back: a record of benchmarks/round_trips.py."""
    rows = [
        [
            one["format"],
            *(str(one[key]) for key in ("instances", "came_home", "labelled_alike")),
            f"{one['farthest_move_px']:g} px" + (", the same bytes" if one.get("same_bytes") else ""),
        ]
        for one in record["trips"]
    ]
    said = f"`{record['file']}`, as its annotators saved it, by way of COCO. {made_by(file, record)}"
    head = ["there and back", "instances", "came home", "labelled alike", "farthest that a keypoint moved"]
    return ["### Conversions there and back", "", said, "", *grid(head, rows)]


# What a record is told by -> its section, in the order of the page.
KINDS: Kinds = {
    "fault injection": faulted,
    "fuzz_inputs": fuzzed,
    "fuzz_exports": exported,
    "fuzz_hypothesis": drawn,
    "serve_load": served,
    "data_check": doctored,
    "doctor_real_sets": silent,
    "doctor_recall": recalled,
    "round_trips": homeward,
}


def tables(records: Records) -> str:
    """Everything between the marks of the page about reliability."""
    lines = [
        line
        for kind, write in KINDS.items()
        for file, record in records.items()
        if kind in (record.get("kind"), record.get("name"))
        for line in write(file, record)
    ]
    return "\n".join(lines or ["Nothing has been recorded yet.", ""])
