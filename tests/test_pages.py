"""Config pages: whole, refused where they are wrong, and written back as they were read."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.backbones.insert import attention_blocks
from polarpix.config import PoseRun
from polarpix.costs import page_outputs
from polarpix.errors import InputError
from polarpix.pages import RUNS, flatten, load_page, make_run, page_text, read_page, run_parser
from polarpix.pose.model import build_pose_model
from polarpix.seg.model import build_seg_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for folder in (ROOT / "configs", ROOT / "polarpix" / "demo")
    for path in folder.rglob("*.yaml")
    if "schemas" not in path.parts
)
TinyPage = Callable[[str], dict[str, Any]]


def test_there_are_pages_for_both_tasks() -> None:
    assert {path.parent.name for path in PAGES} >= {"pose", "seg", "demo"}


def named(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("path", pages, ids=[f"{path.parent.name}/{path.stem}" for path in pages])


@named(PAGES)
def test_every_page_is_whole(path: Path) -> None:
    run = load_page(path)
    written = read_page(path)
    again = yaml.safe_load(page_text(run))
    assert list(flatten(written)) == list(flatten(again)), "a page names every key, in one order"
    assert flatten(written) == flatten(again)


@named([path for path in PAGES if "paper" not in path.parts])  # those are trained in {pose,seg}/test_paper_pages.py
def test_every_page_builds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # pages name files from there
    run = load_page(path)
    backbone = run.model.backbone
    backbone.weights = None
    if backbone.attention.startswith("psa"):
        backbone.attention_options = backbone.attention_options | {"impl": "reference"}
    with torch.device("meta"):
        if isinstance(run, PoseRun):
            network = build_pose_model(run.model, page_outputs(run)).eval()
            found = network(torch.empty(1, 3, *run.model.input_size))
        else:
            network = build_seg_model(run.model, page_outputs(run)).eval()
            found = network(torch.empty(1, 3, *run.data.crop_size))
    assert found.shape[1] == page_outputs(run)
    assert bool(attention_blocks(network.backbone)) == (backbone.attention != "none")


def test_demo_pages_are_installed_with_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '"**/*.yaml"' in text


@settings(deadline=None, max_examples=5)
@given(
    lr=st.floats(1e-12, 1e3),
    milestones=st.lists(st.integers(0, 500), max_size=4),
    places=st.none() | st.lists(st.sampled_from(["layer1", "layer2.0.bn1"]), max_size=2),
    options=st.dictionaries(st.sampled_from(["impl", "init"]), st.sampled_from(["reference", "identity"])),
    name=st.text("abcXYZ-_. 0123456789:#'\"é", min_size=1, max_size=12).filter(lambda name: name.strip(".")),
)
def test_a_written_page_reads_back(
    lr: float, milestones: list[int], places: list[str] | None, options: dict[str, str], name: str
) -> None:
    run = PoseRun(name=name)
    run.optim.lr, run.optim.milestones = lr, milestones
    run.model.backbone.places, run.model.backbone.attention_options = places, options
    text = page_text(run)
    again = make_run(yaml.safe_load(text))
    assert again == make_run(yaml.safe_load(page_text(again)))
    assert page_text(again) == text


def test_options_win_over_the_page(tiny_page: TinyPage) -> None:
    run = make_run(
        tiny_page("pose"),
        ["--optim.lr", "3e-4", "--eval.flip_test=false", "--model.input_size=[32, 64]", "--engine.devices", "2"],
    )
    assert isinstance(run, PoseRun)
    assert run.optim.lr == 3e-4
    assert run.eval.flip_test is False
    assert tuple(run.model.input_size) == (32, 64)
    assert run.engine.devices in (2, "2")
    assert run.engine.epochs == tiny_page("pose")["engine"]["epochs"]


def test_a_number_in_scientific_notation_is_a_number(tiny_page: TinyPage) -> None:
    page = tiny_page("seg")
    page["optim"]["lr"] = yaml.safe_load("1e-3")  # a string, for YAML 1.1
    assert make_run(page).optim.lr == 1e-3


def change(page: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *folders, last = key.split(".")
    for folder in folders:
        page = page[folder]
    page[last] = value
    return page


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optim.lrate", 1, "p.yaml: no key 'optim.lrate': did you mean 'optim.lr'?"),
        ("modle", {"head": "deconv"}, "no key 'modle.head': did you mean 'model.head'?"),
        ("zzzz", 1, "p.yaml: no key 'zzzz': a pose page has name, task, seed"),
        ("optim.lr", "fast", "optim.lr"),
        ("engine.epochs", 1.5, "engine.epochs"),
        ("engine.precision", "fp8", "engine.precision"),
        ("model.head", "linaer", "model.head"),
        ("model.input_size", [64], "model.input_size is '[64]': give a list of 2"),
        ("model.input_size", 64, "model.input_size is '64': give a list, [..., ...]"),
        ("model.backbone.places", "layer1", "places is 'layer1': give a list of texts, [..., ...] or null"),
        ("model.backbone.attention_options", None, "attention_options is null: give a mapping, {...: ...}"),
        ("engine.epochs", None, "engine.epochs is null: give a whole number, or leave it out"),
        ("loss", None, "loss is null: give one of mse"),
        ("model.backbone", None, "model.backbone"),
        ("data", 5, "data"),
        ("name", None, "name"),
    ],
)
def test_a_wrong_page_is_refused_in_one_line(tiny_page: TinyPage, key: str, value: Any, words: str) -> None:
    page = tiny_page("pose")
    change(page, key, value)
    with pytest.raises(InputError) as caught:
        make_run(page, source="p.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("p.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optim.lrr", "1"], "no option --optim.lrr: did you mean --optim.lr?"),
        (["--eval.fliptest=true"], "did you mean --eval.flip_test?"),
        (["--qqqq"], "'polarpix train --help' and 'polarpix info pose' list them"),
        (["--optim.lr", "fast"], "optim.lr is 'fast': give a number"),
        (["--engine.epochs", "1.5"], "engine.epochs is '1.5': give a whole number"),
        (["--loss", "focal"], "loss is 'focal': give one of mse, ohkm"),
        (["--eval.pck", "0.5"], "eval.pck is '0.5': give a list, [..., ...]"),
        (["--eval.flip_test", "maybe"], "eval.flip_test is 'maybe': give true or false"),
        (["--optim.lr"], "optim.lr"),
        (["--engine.epochs", "2", "stray"], "stray"),
        (["--engine.strategy", "ddpp"], "engine.strategy"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(tiny_page: TinyPage, options: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make_run(tiny_page("pose"), options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "holds no keys"),
        ("", "holds no keys"),
        ("task: [pose\n", "not valid YAML"),
        ("task: pose\nname: x\noptim:\n  lr: 1\n  lr: 2\n", "key 'lr' is given twice"),
        ("name: x\n", "task is None: write one of pose, seg"),
        ("task: poes\n", "task is 'poes': write one of pose, seg"),
        ("task: [pose]\n", "write one of pose, seg"),
        ("task: pose\n", "name"),
        ("task: seg\nseed: !!python/object/apply:os.system ['exit']\n", "not valid YAML"),
        ("task: seg\nseed: !!python/name:os.system\n", "not valid YAML"),
        ("task: seg\n? [1]\n: 2\n", "a key is no word"),
        ("task: seg\nseed: " + "[" * 5000, "not valid YAML"),
        ("task: seg\nseed: &a [*a]\n", "unfolds to more than"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [{f'*a{k - 1}, ' * 9}]\n" for k in range(1, 9)),
            "unfolds to more than",
        ),
        ("task: seg\nname: x\nmodel: {backbone: {name: test_resnet}, aspp_channels: 1000000000}\n", "16384"),
    ],
)
def test_what_is_no_page(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_page(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_page_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "figures.yaml").write_text("task: pose\n")
    with pytest.raises(InputError, match=r"figure\.yaml: no such page: did you mean figures\.yaml\?"):
        load_page(tmp_path / "figure.yaml")
    with pytest.raises(InputError, match="no such page"):
        load_page(tmp_path)


@pytest.mark.parametrize("task", RUNS)
def test_the_help_lists_and_explains_every_key(task: str) -> None:
    text = run_parser(task, "train", "Keys.").format_help()
    missing = [key for key in flatten(asdict(RUNS[task](name="x"))) if f"--{key}" not in text]
    assert not missing
    assert "learning rate of the head" in text
