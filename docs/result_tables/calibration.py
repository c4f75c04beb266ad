"""docs/calibration.md: errors of scores, and what ellipses held."""

from __future__ import annotations

from result_tables.parts import Records, grid

__all__ = ["tables"]


def tables(records: Records) -> str:
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
