"""The card says what the files say, in front matter that the Hub reads, and names what nobody told."""

import re
from typing import Any

import pytest
import torch
import yaml

from polarpix.demo.figures import FIGURE_SCHEMA
from polarpix.engine.artifact import Artifact
from polarpix.errors import InputError
from polarpix.hub.card import Facts, model_card

RECORD: dict[str, Any] = {
    "command": "polarpix eval runs/pose/x --split test",
    "metrics": {"AP": 0.51234, "PCK@0.2": 0.75, "PCK@0.2/nose": 0.9},
    "protocol": {"protocol": "gt_boxes", "annotations": "/home/me/data/test.json", "flip_test": True, "scales": [1.0]},
    "conditions": {"device": "a card"},
    "training": {"epochs": 12, "seconds": 615.0},
    "config": {"name": "x"},
}


@pytest.fixture
def artifact() -> Artifact:
    run = {
        "name": "x",
        "seed": 3,
        "monitor": "AP",
        "model": {
            "backbone": {"name": "resnet18", "attention": "psa_p"},
            "head": "deconv",
            "input_size": [64, 48],
            "codec": "udp",
        },
        "data": {"root": "/home/me/data/mine"},
        "engine": {"epochs": 20},
    }
    state = {"a": torch.zeros(500, 1000)}
    return Artifact("pose", run, FIGURE_SCHEMA, {"AP": 0.5}, "abc123", state, "x", "paper", "parallel")


def rows(card: str) -> dict[str, str]:
    """The tables of a card, first cell to second."""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card, flags=re.M))


def test_a_card_with_everything(artifact: Artifact) -> None:
    facts = Facts("Bodies", "Finds bodies.", "Mine, from https://example.org", "CC BY-NC 4.0", "cc-by-nc-4.0")
    card = model_card(artifact, "me/bodies", facts, RECORD)
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "polarpix",
        "keypoint-detection",
        "cc-by-nc-4.0",
    )
    result = data["model-index"][0]["results"][0]
    assert result["metrics"] == [{"type": "AP", "value": 0.5123}, {"type": "PCK@0.2", "value": 0.75}]
    assert result["dataset"] == {"name": "Mine, from https://example.org", "type": "custom", "split": "test"}
    told = rows(body)
    assert told["attention"] == "psa_p, paper form, parallel"
    assert told["numbers"] == "0.50 million, 2.0 MB"
    assert told["input"] == "64 x 48 pixels (height x width)"
    assert told["AP"] == "0.5123"
    assert told["PCK@0.2/nose"] == "0.9000"
    assert told["time"] == "10 minutes, validation included"
    assert (told["epochs"], told["seed"], told["commit"], told["evaluated on"]) == ("12", "3", "abc123", "a card")
    assert told["licence of the data"] == "CC BY-NC 4.0"
    assert "Protocol: protocol gt_boxes, annotations test.json, flip_test yes, scales 1.0." in body
    assert 'polarpix.load("me/bodies")' in body
    assert "polarpix predict me/bodies photo.jpg" in body
    assert "Finds bodies. It finds" in body
    assert "/home/me" not in card


def test_a_card_without_facts_and_record(artifact: Artifact) -> None:
    card = model_card(artifact, "runs/x")
    _, front, body = card.split("---\n", 2)
    assert not {"license", "model-index"} & yaml.safe_load(front).keys()
    told = rows(body)
    assert told["licence of the data"] == told["licence of the weights"] == told["time"] == "not stated"
    assert (told["trained on"], told["epochs"]) == ("mine", "20")
    assert "On the validation split while training" in body
    assert told["AP"] == "0.5000"


def test_the_hub_reads_the_front_matter(artifact: Artifact) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(model_card(artifact, "me/x", Facts(licence="apache-2.0"), RECORD)).data
    assert data.license == "apache-2.0"
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("AP", 0.5123), ("PCK@0.2", 0.75)]


def test_a_record_of_another_network_is_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"the record is of 'y', the weights of 'x'"):
        model_card(artifact, "x", record=RECORD | {"config": {"name": "y"}})
