"""SIGKILL and SIGTERM at random moments of trainings, each followed by ``--resume``.

A moment is drawn evenly over the time that an uninterrupted training took between two of its updates; it is met in the
harmed one by counting updates and waiting for what is left, so that a busy machine does not move it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_parts import Ended, Place, Run, finish, same, start
from tqdm import tqdm

TRIES = 9  # for a moment that came after the end, or after the last word


def moments(times: Sequence[float], said: float, late: bool) -> tuple[float, float]:
    """From when to when a moment is drawn: between first and last update, or from the last one to the last word."""
    return (times[-1], said) if late else (times[0], times[-1])


def met_by(times: Sequence[float], moment: float) -> tuple[int, float]:
    """How many updates are done at a moment, and how long ago the last of them was."""
    done = bisect_right(times, moment)
    return done, moment - times[done - 1]


def counted(updates: Path) -> int:
    """How many updates a training has told of."""
    return updates.read_bytes().count(b"\n") if updates.exists() else 0


def struck(run: Run, updates: Path, kind: signal.Signals, done: int, rest: float) -> tuple[Ended, int]:
    """A training ended by a signal so long after so many updates; how it ended, and the updates it had done."""
    process = start(run.page, updates=updates)
    while counted(updates) < done and process.poll() is None:
        time.sleep(0.0005)
    try:
        process.wait(rest)
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
    ended = finish(process)
    return ended, counted(updates)


def interrupted(place: Place, kind: signal.Signals, count: int, late: bool = False) -> dict[str, Any]:
    """That many trainings, every other one with a loading process; what became of them, one by one and together."""
    runs: list[dict[str, Any]] = []
    whole: dict[int, Any] = {}
    for number in tqdm(range(count), desc=f"{kind.name}{' late' if late else ''}", unit="run"):
        workers = number % 2
        name = f"{kind.name}{'late' * late}{number}"
        if workers not in whole:
            run, updates = place.run(f"{name}_straight", workers=workers), place.folder / f"{name}_straight.txt"
            ended = finish(start(run.page, updates=updates))
            assert ended.status == 0, ended
            times = [float(line) for line in updates.read_text().split()]
            whole[workers] = run.weights(), times, float(Path(f"{updates}.end").read_text())
        weights, times, said = whole[workers]
        run = place.run(name, workers=workers)
        for attempt in range(TRIES):
            shutil.rmtree(run.folder, ignore_errors=True)
            moment = place.rng.uniform(*moments(times, said, late))
            told = place.folder / f"{name}_{attempt}.txt"
            ended, done = struck(run, told, kind, *met_by(times, moment))
            if ended.status != 0 and (late or done < len(times)):
                break
        kept = run.kept()
        again = finish(start(run.page, "--resume"))
        runs.append(
            {
                "workers": workers,
                "updates_done": done,
                "updates": len(times),
                "draws": attempt + 1,
                "status": ended.status,
                "lines": ended.lines,
                "clean": ended.clean and again.clean,
                "updates_kept": None if kept is None else int(kept["global_step"]),
                "resumed_status": again.status,
                "resumed_lines": again.lines,
                "weights_equal": again.status == 0 and same(run.weights(), weights),
            }
        )
        shutil.rmtree(run.folder)
    return {"times": count, "runs": runs, "line": runs[0]["lines"][-1] if runs[0]["lines"] else ""}


def killed(place: Place, count: int) -> dict[str, Any]:
    """SIGKILL between the first and the last update."""
    found = interrupted(place, signal.SIGKILL, count)
    runs = found["runs"]
    between = all(one["status"] == -signal.SIGKILL and 0 < one["updates_done"] < one["updates"] for one in runs)
    return found | {"held": {"all ended by it, between the first and the last update": between} | both(runs)}


def asked(place: Place, count: int, late: bool = False) -> dict[str, Any]:
    """SIGTERM between the first and the last update, or behind the last."""
    found = interrupted(place, signal.SIGTERM, count, late)
    runs = found["runs"]
    one = [len(run["lines"]) == 1 and run["lines"][0].startswith("polarpix: asked to end") for run in runs]
    held = {"all with status 143": all(run["status"] == 143 for run in runs), "and one line": all(one)}
    if late:
        held = {"all struck behind the last update": all(run["updates_done"] == run["updates"] for run in runs)} | held
    return found | {"held": held | both(runs)}


def both(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """What holds for either signal."""
    return {
        "no traceback, also in going on": all(run["clean"] for run in runs),
        "resumed, all end with the weights of an uninterrupted run": all(run["weights_equal"] for run in runs),
    }
