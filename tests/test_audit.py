"""Licences are judged by what packages say of themselves; exceptions have reasons; no service is no failure."""

import importlib.util
import json
import subprocess
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "benchmarks" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Package:
    """What the licence is read from."""

    def __init__(self, name: str, **fields: str) -> None:
        self.metadata = Message()
        self.metadata["Name"] = name
        for field, value in fields.items():
            self.metadata[field.replace("_", "-")] = value


@pytest.mark.parametrize(
    ("words", "judged"),
    [
        ("MIT", ""),
        ("Apache-2.0", ""),
        ("MPL-2.0", ""),
        ("BSD License; MIT License", ""),
        ("GPL-3.0-only", "refused"),
        ("AGPL-3.0-or-later", "refused"),
        ("GNU Affero General Public License v3", "refused"),
        ("GNU General Public License v2 (GPLv2)", "refused"),
        ("MIT AND GPL-2.0-only", "refused"),
        ("MIT OR GPL-2.0-only", ""),
        ("LGPL-2.1-or-later", "noted"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "noted"),
        ("LicenseRef-NVIDIA-Proprietary", "noted"),
        ("", "refused"),
        ("UNKNOWN", "refused"),
    ],
)
def test_verdicts(audit: Any, words: str, judged: str) -> None:
    assert audit.verdict("any", words) == judged


def test_a_refused_licence_fails_and_an_exception_says_why(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Package("Some_Thing", License_Expression="GPL-3.0-only")
    fine = Package("fine", Classifier="License :: OSI Approved :: MIT License")
    assert audit.audit_licences([fine, Package("docutils", License="GPL")]) == 0
    assert audit.EXCEPTIONS["docutils"] in capsys.readouterr().out
    assert audit.audit_licences([fine, bad, Package("bare")]) == 2
    told = capsys.readouterr().out
    assert "refused: some-thing: GPL-3.0-only" in told
    assert "refused: bare: no licence named" in told
    assert all(len(reason) > 20 for reason in audit.EXCEPTIONS.values())


def test_vulnerabilities(audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def answered(text: str, error: str = "") -> Any:
        return lambda command, **options: subprocess.CompletedProcess(command, 1, text, error)

    monkeypatch.setattr(audit.subprocess, "run", answered("", "trace\nConnectionError: no network"))
    assert audit.audit_vulnerabilities() == 0
    told = "vulnerabilities: not checked, the service cannot be asked (ConnectionError: no network)\n"
    assert capsys.readouterr().out == told
    advisory = {"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    found = {"dependencies": [{"name": "a", "version": "1", "vulns": [advisory]}]}
    monkeypatch.setattr(audit.subprocess, "run", answered(json.dumps(found)))
    assert audit.audit_vulnerabilities() == 1
    assert "refused: a 1: X-1, fixed in 2" in capsys.readouterr().out
    monkeypatch.setitem(audit.VULNERABILITIES, "CVE-1", "not reached from here")
    assert audit.audit_vulnerabilities() == 0

    def late(command: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(audit.subprocess, "run", late)
    capsys.readouterr()
    assert audit.audit_vulnerabilities() == 0
    assert "did not answer" in capsys.readouterr().out
