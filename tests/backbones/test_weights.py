"""Published files fill our networks under whatever names they use, and what does not fit is said."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.backbones.insert import insert_attention
from polarpix.backbones.weights import load_weights, rename
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig


def randomize(model: nn.Module) -> nn.Module:
    """Random normalisations too, so that a swapped pair shows."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def plain(name: str, **options: object) -> Backbone:
    return build_backbone(BackboneConfig(name, attention="none", **options)).eval()


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("size", [(64, 96), (65, 81)])
def test_torchvision_mobilenetv2_gives_the_same_features(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = randomize(torchvision.models.mobilenet_v2())
    ours = plain("mobilenetv2_100")
    report = load_weights(ours, save(tmp_path / "mobilenet_v2.pth", theirs.state_dict()), strict=True)
    assert not report.missing
    assert not report.mismatched
    assert {name.split(".")[0] for name in report.unexpected} == {"conv_head", "bn2", "classifier"}
    x = torch.randn(2, 3, *size)
    maps = dict(zip((1, 3, 6, 13, 17), ours(x), strict=True))  # index of the last torchvision block of each map
    for i, block in enumerate(theirs.features[:18]):
        x = block(x)
        if i in maps:
            torch.testing.assert_close(maps[i], x, atol=1e-5, rtol=1e-5)


def test_torchvision_mobilenetv2_fills_the_whole_classifier(tmp_path: Path) -> None:
    theirs, ours = randomize(torchvision.models.mobilenet_v2()), timm.create_model("mobilenetv2_100").eval()
    report = load_weights(ours, save(tmp_path / "mobilenet_v2.pth", theirs.state_dict()), strict=True)
    assert not report.unexpected
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_torchvision_resnet_gives_the_same_features(tmp_path: Path) -> None:
    theirs, ours = randomize(torchvision.models.resnet18()), plain("resnet18")
    report = load_weights(ours, save(tmp_path / "resnet.pth", theirs.state_dict()), strict=True)
    assert report.unexpected == ("fc.weight", "fc.bias")
    x = torch.randn(1, 3, 64, 48)
    out = ours(x)
    y = theirs.relu(theirs.bn1(theirs.conv1(x)))
    y = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(theirs.maxpool(y)))))
    torch.testing.assert_close(out[-1], y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network", ["resnet50", "resnext50_32x4d"])
def test_torchvision_bottlenecks_have_timm_names(network: str) -> None:
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, network)().state_dict(), timm.create_model(network).state_dict()
    renamed = rename(theirs, ours.keys())
    assert {name: t.shape for name, t in renamed.items()} == {name: t.shape for name, t in ours.items()}


def test_timm_names_of_a_classifier_fill_a_flattened_extractor(tmp_path: Path) -> None:
    theirs, ours = timm.create_model("convnext_atto"), plain("convnext_atto")
    report = load_weights(ours, save(tmp_path / "convnext.pth", theirs.state_dict()), strict=True)
    assert {name.split(".")[0] for name in report.unexpected} == {"head"}
    torch.testing.assert_close(ours.net.stages_3.blocks[0].conv_dw.weight, theirs.stages[3].blocks[0].conv_dw.weight)


@pytest.mark.parametrize("wrap", ["", "module.", "backbone.net.", "net."])
def test_wrappers_are_taken_off(tmp_path: Path, wrap: str) -> None:
    source, target = Tiny(), Tiny()
    content = {"epoch": 3, "state_dict": {wrap + name: tensor for name, tensor in source.state_dict().items()}}
    load_weights(target, save(tmp_path / "tiny.pth", content), strict=True)
    assert torch.equal(target[0].weight, source[0].weight)


def test_safetensors(tmp_path: Path) -> None:
    source, target = Tiny(), Tiny()
    save_file(source.state_dict(), tmp_path / "tiny.safetensors")
    report = load_weights(target, tmp_path / "tiny.safetensors", strict=True)
    assert torch.equal(target[0].weight, source[0].weight)
    assert len(report.loaded) == len(target.state_dict())
    assert str(report).endswith("tiny.safetensors: 7 loaded, 0 missing, 0 unexpected, 0 of another shape")


def test_attention_may_be_missing_and_is_reported(tmp_path: Path) -> None:
    source, target = Tiny(), Tiny()
    insert_attention(target, "se", ["0"])
    fresh = target[0].attention.fc1.weight.clone()
    report = load_weights(target, save(tmp_path / "tiny.pth", source.state_dict()), strict=True)
    assert [name for name in report.missing if not name.startswith("0.attention.")] == []
    assert len(report.missing) == 4
    assert torch.equal(target[0].attention.fc1.weight, fresh)


def test_attention_in_the_file_is_loaded(tmp_path: Path) -> None:
    source, target = Tiny(), Tiny()
    for model in (source, target):
        insert_attention(model, "se", ["0"])
    assert not load_weights(target, save(tmp_path / "tiny.pth", source.state_dict()), strict=True).missing
    assert torch.equal(target[0].attention.fc1.weight, source[0].attention.fc1.weight)


def part(**changes: Tensor | None) -> dict[str, Tensor]:
    tensors = {**Tiny().state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def test_report_names_every_misfit(tmp_path: Path) -> None:
    file = save(tmp_path / "f.pth", part(**{"0__weight": None, "0__bias": torch.zeros(5), "fc__bias": torch.zeros(2)}))
    report = load_weights(Tiny(), file)
    assert report.missing == ("0.weight",)
    assert report.mismatched == ("0.bias: file [5], network [4]",)
    assert report.unexpected == ("fc.bias",)
    assert len(report.loaded) == 5


def test_counter_of_batches_may_be_missing(tmp_path: Path) -> None:
    file = save(tmp_path / "f.pth", part(**{"1__num_batches_tracked": None}))
    assert load_weights(Tiny(), file, strict=True).missing == ()


def test_what_a_backbone_was_built_without_is_not_complained_about(tmp_path: Path) -> None:
    config = BackboneConfig("hrnet_w18_small", attention="psa_p")
    file = save(tmp_path / "hrnet.pth", timm.create_model("hrnet_w18_small").state_dict())
    config.weights = str(file)
    build_backbone(config, upto=4)  # strict
    config.weights = None
    report = load_weights(build_backbone(config, upto=4), file, strict=True)
    heads = {name.partition(".")[0] for name in report.unexpected}
    assert heads == {"incre_modules", "downsamp_modules", "final_layer", "classifier"}
    assert all(".attention." in name for name in report.missing)
    assert not report.mismatched


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0__weight": None}, r"f\.pth: has no 0\.weight: take the weights of this very network"),
        ({"0__weight": None, "1__bias": None}, r"f\.pth: has no 0\.weight and 1 more"),
        ({"0__bias": torch.zeros(5)}, r"f\.pth: 0\.bias: file \[5\], network \[4\]: take"),
    ],
)
def test_strict_refuses_and_changes_nothing(tmp_path: Path, changes: dict[str, Tensor], message: str) -> None:
    file, target = save(tmp_path / "f.pth", part(**changes)), Tiny()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(target, file, strict=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


class Unsafe:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save(tmp_path / "whole.pth", part())
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "page.pth").write_text("task: seg\nname: tiny\nseed: 0\n")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    flipped = bytearray(whole.read_bytes())
    flipped[flipped.index(torch.load(whole)["0.weight"].numpy().tobytes())] ^= 16
    (tmp_path / "flipped.pth").write_bytes(bytes(flipped))
    save(tmp_path / "code.pth", {"x": Unsafe()})
    save(tmp_path / "list.pth", [torch.zeros(1)])
    save(tmp_path / "other.pth", {"a": torch.zeros(1)})
    for name, message in {
        "absent.pth": "no such weights file: give a .pth",
        "cut.pth": "truncated or not a torch file",
        "flipped.pth": "truncated or not a torch file",
        "empty.pth": "truncated or not a torch file",
        "page.pth": "truncated or not a torch file",
        "text.pth": "truncated or not a torch file",
        "cut.safetensors": "not a readable safetensors file",
        "code.pth": "holds more than weights, or none",
        "list.pth": "no tensors by name in it",
        "other.pth": "none of its 1 tensors fits Tiny (first names: a there, 0.weight here)",
    }.items():
        with pytest.raises(InputError) as error:
            load_weights(Tiny(), tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {message}")
        assert "\n" not in str(error.value)
    assert "ran" not in capsys.readouterr().out
