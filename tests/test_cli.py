"""The command line: help at once, options to their pages, errors in one line."""

import errno
import functools
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tqdm import tqdm

from polarpix import cli
from polarpix.errors import InputError
from polarpix.pages import load_page

TinyPage = Callable[[str], dict[str, Any]]

HEAVY = ("torch", "numpy", "jsonargparse", "pytorch_lightning", "timm", "cv2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["train", "--help"],
        ["predict", "--help"],
        ["bench"],
        ["bench", "--help"],
        ["bench", "block", "--help"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('heavy:', [m for m in {HEAVY} if m in sys.modules]))\n"
        f"sys.argv = ['polarpix', *{arguments}]\n"
        "from polarpix.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy: []\n")
    assert done.stdout.startswith("0." if arguments == ["--version"] else "usage: polarpix")


def test_a_reader_that_has_enough_ends_it_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "polarpix", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "polarpix", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, cli.usage(), "")


def test_every_command_says_what_it_does_and_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    program = capsys.readouterr().out
    commands = dict(cli.COMMANDS)
    for group, (about, table) in cli.GROUPS.items():
        assert about in program
        assert cli.run([group]) == 0
        program += capsys.readouterr().out
        commands |= {f"{group} {name}": command for name, command in table.items()}
    for name, command in commands.items():
        assert cli.summary(command) in program
        parameters = [one for one in inspect.signature(command).parameters if one != "options"]
        assert list(cli.argument_help(command)) == parameters
        with pytest.raises(SystemExit) as left:
            cli.run([*name.split(), "--help"])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert f"usage: polarpix {name}" in text
        for parameter in parameters:
            assert cli.flag_of(parameter) in text or parameter in text
        assert ("--optim.lr" in text) == ("options" in inspect.signature(command).parameters)


def test_page_options_may_stand_anywhere() -> None:
    rest, options = cli.split_options(
        "predict",
        [
            "--eval.flip_test",
            "false",
            "w",
            "--out",
            "x",
            "a.jpg",
            "--optim.lr=1",
            "b.jpg",
            "--eval.scales",
            "[1, 2]",
            "c.jpg",
        ],
    )
    assert options == ["--eval.flip_test", "false", "--optim.lr=1", "--eval.scales", "[1, 2]"]
    values = vars(cli.command_parser("predict").parse_intermixed_args(rest))
    assert values == {
        "weights": "w",
        "source": ["a.jpg", "b.jpg", "c.jpg"],
        "boxes": "",
        "detector": "",
        "category": "",
        "batch": None,
        "frames": 0,
        "ellipses": 0.0,
        "frame_labels": False,
        "timing": False,
        "ray": False,
        "workers": 2,
        "address": "",
        "config": "",
        "out": "x",
        "device": "auto",
    }
    rest, options = cli.split_options("train", ["--config", "p.yaml", "--resume", "--out", "there", "--name", "again"])
    assert (rest, options) == (["--config", "p.yaml", "--resume"], ["--out", "there", "--name", "again"])


def test_pictures_without_a_model_are_for_the_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`polarpix explain photo.jpg` is a whole command; what is named is taken, wherever it stands."""
    calls: list[tuple[str, list[str]]] = []

    @functools.wraps(cli.COMMANDS["explain"])
    def recorder(**named: Any) -> int:
        calls.append((named["weights"], named["source"]))
        return 0

    monkeypatch.setitem(cli.COMMANDS, "explain", recorder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for words in (["a.JPG"], ["--out", "x", "photos"], ["photos/*"], ["a.jpg", "--out", "x", "b.webp"]):
        with pytest.warns(UserWarning, match="no model is named: body is taken"):
            assert cli.run(["explain", *words]) == 0
        assert calls[-1] == ("body", [word for word in words if word not in ("--out", "x")])
    for words in (["street", "a.jpg"], ["a.jpg", "--model", "street"], ["street", "--out", "x", "a.jpg"]):
        assert cli.run(["explain", *words]) == 0
        assert calls[-1] == ("street", ["a.jpg"])


def test_a_value_may_begin_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box may reach over the left edge."""
    calls: list[dict[str, Any]] = []

    @functools.wraps(cli.COMMANDS["predict"])
    def recorder(**named: Any) -> int:
        calls.append(named)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "predict", recorder)
    for box in ("-5,-5,40,30", "-.5,0,3,4"):
        assert cli.run(["predict", "w", "a.jpg", "--boxes", box, "--out", "x", "--optim.lr", "-1"]) == 0
        assert (calls[-1]["boxes"], calls[-1]["out"], calls[-1]["source"]) == (box, "x", ["a.jpg"])
        assert calls[-1]["options"] == ["--optim.lr=-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "no command 'trian': did you mean 'train'?"),
        (["xyz"], "choose one of train, eval"),
        (["bench", "blcok"], "no command 'bench blcok': did you mean 'block'?"),
        (["bench", "--device", "cpu"], "no command 'bench --device': choose one of block, model, kernels"),
        (["bench", "block", "--shapes", "4,64"], "--shapes holds '4,64': a shape is B,C,H,W"),
        (["bench", "model", "--seconds", "1"], "'polarpix bench model --help' explains the command"),
        (["predict"], "arguments are required: weights"),
        (["predict", "street"], "street: a model, and no picture for it: name one behind it"),
        (["explain", "--model", "body"], "body: a model, and no picture for it"),
        (["predict", "runs/x.onnx", "--out", "x"], "runs/x.onnx: a model, and no picture for it"),
        (["explain", "user/hands"], "user/hands: a model, and no picture for it"),
        (["models", "--folder", "nowhere"], "--folder nowhere: no such folder: name one that holds pages"),
        (["models", "--jsno"], "unrecognized arguments: --jsno"),
        (["train"], "train needs --config PAGE"),
        (["train", "page.yaml"], "unrecognized arguments: page.yaml"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: no such page"),
        (["info", "nowhere"], "nowhere: no such weights file"),
        (["eval", "nowhere"], "nowhere: no such weights file"),
        (["predict", "nowhere", "a.jpg"], "nowhere: no such weights file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # to be put back: main() sets its own
    monkeypatch.setattr(sys, "argv", ["polarpix", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("polarpix: ")
    assert words in err
    assert err.count("\n") == 1


def test_the_page_to_begin_with_is_there() -> None:
    with pytest.raises(InputError, match=r"take one from configs/, for example (\S+)$") as caught:
        cli.run(["train"])
    assert (Path(__file__).parents[1] / str(caught.value).rpartition(" ")[2]).is_file()


def test_an_interruption_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> int:
        """Stop."""
        raise KeyboardInterrupt

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["polarpix", "demo"])
    monkeypatch.setitem(cli.COMMANDS, "demo", stop)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 130
    assert "what was written is kept" in capsys.readouterr().err


def test_a_place_that_takes_no_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble: list[OSError] = []

    def write() -> int:
        """Write."""
        raise trouble[-1]

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["polarpix", "demo"])
    monkeypatch.setitem(cli.COMMANDS, "demo", write)
    for number in (errno.ENOSPC, errno.EACCES, errno.ENOTDIR, errno.EEXIST):
        trouble.append(OSError(number, "no way", "runs/x"))
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        assert capsys.readouterr().err == "polarpix: runs/x: no way: make room, or choose another place\n"
    trouble.append(FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / "a" / "x")))  # a mistake of ours
    with pytest.raises(FileNotFoundError):
        cli.main()
    with pytest.raises(FileNotFoundError) as caught:
        Path("/proc/x").mkdir(parents=True)  # for root too
    trouble.append(caught.value)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "polarpix: /proc/x: cannot be made, /proc takes no files: choose another place\n"


@pytest.mark.parametrize("leave", [True, False])
def test_lines_stand_below_open_progress_bars(
    leave: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = []

    def work() -> int:
        """Work."""
        bars.append(tqdm(total=4, leave=leave, mininterval=0))
        bars[0].update()
        sys.stderr.write(warnings.formatwarning("mind this", UserWarning, "", 0))
        bars[0].update()
        raise InputError("cannot go on")

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["polarpix", "demo"])
    monkeypatch.setitem(cli.COMMANDS, "demo", work)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    for line in ("polarpix: warning: mind this", "polarpix: cannot go on"):
        before, found, _ = said.partition(f"{line}\n")
        shown = before.rpartition("\n")[2].rpartition("\r")  # what the terminal's line held, and what stands over it
        assert found
        assert shown[2] == ""
        assert shown[0].rpartition("\r")[2].strip() == ""


def test_the_printed_page_is_the_run(tiny_page: TinyPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(tiny_page("seg")))
    options = ["--optim.lr", "0.5", "--data.scale", "[0.5, 1.0]", "--name", "other"]
    assert cli.run(["train", "--config", str(page), "--print-config", *options]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_page(printed) == load_page(page, options)
    assert load_page(printed).name == "other"
    assert cli.run(["train", "--config", str(printed), "--print-config"]) == 0
    assert capsys.readouterr().out == printed.read_text()


def test_models_lists_pages_and_choices(
    tiny_page: TinyPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("pose", "seg"):
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(tiny_page(task)))
    assert cli.run(["models", "--folder", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    for word in ("pose.yaml", "psa_s_released", "udp_offset", "deconv", "printed", "collapsed"):
        assert word in table
    assert cli.run(["models", "--folder", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in rows] == ["pose", "seg"]
    keys = {"page", "task", "form", "layout", "params", "macs", "macs_collapsed", "published"}
    assert all(keys <= set(row) for row in rows)
    assert all(row["params"] > 0 and row["macs"] > row["macs_collapsed"] > 0 for row in rows)
    assert [(row["form"], row["layout"], row["published"]) for row in rows] == [("paper", "parallel", None)] * 2


def test_models_lists_choices_where_no_pages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["models"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("no pages below configs: give --folder\n")
    assert "psa_s_released" in table


def test_info_lists_keys_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", "seg"]) == 0
    assert "--data.crop_size" in capsys.readouterr().out
    assert cli.run(["info"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"python", "torch", "lightning", "device"} <= set(found)


def test_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)


def test_other_commands_with_a_source_take_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    @functools.wraps(cli.DOCTOR["convert"])
    def recorder(**named: Any) -> int:
        calls.append(named)
        return 0

    monkeypatch.setitem(cli.DOCTOR, "convert", recorder)
    assert cli.run(["data", "convert", "a.csv", "b.json", "--from", "dlc", "--to", "coco"]) == 0
    assert calls[0]["source"] == "a.csv"
