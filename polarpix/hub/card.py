"""The model card: what a network was trained on and how, what it scores by which protocol, and how to load it.

Everything comes from the weights file and from the record of an evaluation; what only a person knows (licences, where
the data comes from) comes as :class:`Facts`. What nobody said is called "not stated".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from polarpix.engine.artifact import Artifact
from polarpix.errors import InputError
from polarpix.types import KeypointSchema

__all__ = ["Facts", "model_card"]

UNKNOWN = "not stated"
PIPELINES = {"pose": "keypoint-detection", "seg": "image-segmentation"}
INTENDED = {
    "pose": "one instance at a time, from its box; the whole image where no box is given",
    "seg": "whole images, one class for each pixel",
}


@dataclass(frozen=True)
class Facts:
    """What a card says and no file knows.

    Args:
        title: the heading; the run's name where it is empty.
        about: a sentence or two on what the network is for.
        data: the training data's name and where it comes from; the name of its folder where it is empty.
        data_licence: the licence or the terms of that data.
        licence: of the weights, as the Hub names it, for example "apache-2.0" or "cc-by-nc-4.0".
    """

    title: str = ""
    about: str = ""
    data: str = ""
    data_licence: str = ""
    licence: str = ""


def model_card(artifact: Artifact, name: str, facts: Facts | None = None, record: dict[str, Any] | None = None) -> str:
    """A model card in Markdown with the Hub's front matter.

    Args:
        artifact: the weights file.
        name: what ``polarpix.load`` gets: "body", "user/name", a folder.
        facts: licences, data, title.
        record: of an evaluation; null for the validation metrics inside the weights file.

    Raises:
        InputError: the record is of another network.
    """
    facts = facts or Facts()
    if record and record.get("config", {}).get("name", artifact.run["name"]) != artifact.run["name"]:
        raise InputError(
            f"the record is of {record['config']['name']!r}, the weights of {artifact.run['name']!r}: give its own"
        )
    sections = [
        front_matter(artifact, facts, record),
        f"# {facts.title or artifact.run['name']}\n\n{intended(artifact, facts)}",
        f"## Network\n\n{network(artifact)}",
        f"## Figures\n\n{figures(artifact, record)}",
        f"## Training\n\n{training(artifact, record)}",
        f"## Data and licences\n\n{licences(artifact, facts)}",
        f"## How to load\n\n{loading(artifact, name)}",
    ]
    return "\n\n".join(sections) + "\n"


def front_matter(artifact: Artifact, facts: Facts, record: dict[str, Any] | None) -> str:
    """The YAML that the Hub reads, figures included where there is a record."""
    data: dict[str, Any] = {
        "library_name": "polarpix",
        "pipeline_tag": PIPELINES[artifact.task],
        "tags": ["polarpix", *(["polarized-self-attention"] if artifact.form else []), artifact.task],
    }
    if facts.licence:
        data["license"] = facts.licence
    if record:
        main = [{"type": name, "value": round(value, 4)} for name, value in headline(record["metrics"]).items()]
        source = {"name": data_name(artifact, facts), "type": "custom", "split": split_of(record)}
        result = {"task": {"type": PIPELINES[artifact.task]}, "dataset": source, "metrics": main}
        data["model-index"] = [{"name": facts.title or artifact.run["name"], "results": [result]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)}---"


def intended(artifact: Artifact, facts: Facts) -> str:
    """What the network is for, and where it ends."""
    found = "keypoints" if artifact.task == "pose" else "classes"
    names = ", ".join(artifact.labels.names)
    about = f"{facts.about} " if facts.about else ""
    return f"{about}It finds {len(artifact.labels.names)} {found} ({names}) and is made for {INTENDED[artifact.task]}."


def network(artifact: Artifact) -> str:
    """Backbone, head, attention with form and layout, size."""
    model = artifact.run["model"]
    kind = f", {artifact.form} form, {artifact.layout}" if artifact.form else ""
    count = sum(tensor.numel() for tensor in artifact.state.values())
    size = sum(tensor.numel() * tensor.element_size() for tensor in artifact.state.values())
    rows = [
        ["backbone", model["backbone"]["name"]],
        ["attention", f"{artifact.attention}{kind}"],
        ["head", model["head"]],
        ["numbers", f"{count / 1e6:.2f} million, {size / 1e6:.1f} MB"],
    ]
    if isinstance(artifact.labels, KeypointSchema):
        height, width = model["input_size"]
        rows += [["input", f"{height} x {width} pixels (height x width)"], ["codec", model["codec"]]]
    return table(["part", "value"], rows)


def figures(artifact: Artifact, record: dict[str, Any] | None) -> str:
    """The metrics and the protocol they were found by."""
    if record is None:
        if not artifact.metrics:
            return "None: the network was not evaluated."
        rows = [[name, f"{value:.4f}"] for name, value in artifact.metrics.items()]
        return f"On the validation split while training, at the best epoch:\n\n{table(['metric', 'value'], rows)}"
    metrics = record["metrics"]
    rows = [[name, f"{value:.4f}"] for name, value in headline(metrics).items()]
    each = [[name, f"{value:.4f}"] for name, value in metrics.items() if "/" in name]
    parts = [f"On the split `{split_of(record)}`, by `{record['command']}`:" if record.get("command") else ""]
    parts += [table(["metric", "value"], rows), f"Protocol: {protocol_line(record['protocol'])}."]
    if each:
        parts.append(table(["one by one", "value"], each))
    return "\n\n".join(part for part in parts if part)


def training(artifact: Artifact, record: dict[str, Any] | None) -> str:
    """How long, on what, from which commit and seed."""
    run, course, conditions = artifact.run, (record or {}).get("training") or {}, (record or {}).get("conditions", {})
    seconds = course.get("seconds")
    rows = [
        ["epochs", f"{course.get('epochs', run['engine']['epochs']):g}"],
        ["time", UNKNOWN if seconds is None else f"{seconds / 60:.0f} minutes, validation included"],
        ["seed", str(run["seed"])],
        ["commit", artifact.commit or UNKNOWN],
        ["evaluated on", str(conditions.get("device", UNKNOWN))],
    ]
    return table(["training", "value"], rows) + "\n\nThe whole page of the run is inside the weights file."


def licences(artifact: Artifact, facts: Facts) -> str:
    """Data, its terms, and the licence of the weights."""
    rows = [
        ["trained on", data_name(artifact, facts)],
        ["licence of the data", facts.data_licence or UNKNOWN],
        ["licence of the weights", facts.licence or UNKNOWN],
        ["licence of the code", "Apache-2.0"],
    ]
    return table(["what", "value"], rows)


def loading(artifact: Artifact, name: str) -> str:
    """The lines that load it and predict."""
    boxes = ", boxes=[[20, 10, 180, 260]]" if artifact.task == "pose" else ""
    comment = "  # x, y, width, height in pixels" if boxes else ""
    return (
        f"```sh\npip install polarpix\npolarpix predict {name} photo.jpg\n```\n\n"
        f'```python\nimport polarpix\n\npredictor = polarpix.load("{name}")\n'
        f'result = predictor("photo.jpg"{boxes}){comment}\nresult.save("overlay.jpg")\n```'
    )


def data_name(artifact: Artifact, facts: Facts) -> str:
    """What was trained on: as told, else the name of the folder, never the path on somebody's machine."""
    return facts.data or Path(str(artifact.run["data"]["root"])).name or UNKNOWN


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of the whole set, without those of single classes and keypoints."""
    return {name: value for name, value in metrics.items() if "/" not in name}


def split_of(record: dict[str, Any]) -> str:
    """The split that was evaluated: a pose record has it only in its annotation file's name."""
    protocol = record["protocol"]
    return str(protocol.get("split") or Path(str(protocol.get("annotations", UNKNOWN))).stem)


def protocol_line(protocol: dict[str, Any]) -> str:
    """The whole protocol in one line, without paths; what was not used is left out."""
    told = {name: value for name, value in protocol.items() if value not in (None, "", []) and name != "data"}
    return ", ".join(f"{name} {short(value)}" for name, value in told.items())


def short(value: Any) -> str:
    """A value of a protocol in few words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    text = str(value)
    return Path(text).name if "/" in text else text[:12] if len(text) == 64 else text  # a path; a sha256


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; a bar in a cell does not end it."""
    lines = [headers, ["---"] * len(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
