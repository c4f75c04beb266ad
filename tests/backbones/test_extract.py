"""A config in, an NCHW pyramid out: what it says of itself is true, and what is frozen stays."""

import copy
from pathlib import Path

import pytest
import timm
import torch

from polarpix.backbones.extract import Backbone, build_backbone
from polarpix.backbones.insert import attention_blocks
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig


def build(name: str = "resnet18", attention: str = "none", **options: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name, attention=attention, **options))


@pytest.mark.parametrize(
    ("name", "output_stride", "channels", "strides"),
    [
        ("resnet18", 32, (64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
        ("resnet18", 16, (64, 64, 128, 256, 512), (2, 4, 8, 16, 16)),
        ("resnet50", 8, (64, 256, 512, 1024, 2048), (2, 4, 8, 8, 8)),
        ("mobilenetv2_100", 16, (16, 24, 32, 96, 320), (2, 4, 8, 16, 16)),
        ("mobilenetv2_100", 8, (16, 24, 32, 96, 320), (2, 4, 8, 8, 8)),
        ("mobilenetv3_small_050", 32, None, (2, 4, 8, 16, 32)),
        ("efficientnet_b0", 16, (16, 24, 40, 112, 320), (2, 4, 8, 16, 16)),
        ("convnext_atto", 16, (40, 80, 160, 320), (4, 8, 16, 16)),
        ("hrnet_w18_small", 32, (64, 16, 32, 64, 128), (2, 4, 8, 16, 32)),
    ],
)
def test_maps_are_what_channels_and_strides_say(
    name: str, output_stride: int, channels: tuple[int, ...] | None, strides: tuple[int, ...]
) -> None:
    backbone = build(name, "se", output_stride=output_stride).eval()
    assert backbone.strides == strides
    assert channels is None or backbone.channels == channels
    assert backbone.places
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [m.shape for m in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, strides, strict=True)
    ]


def test_hrnet_w32_gives_its_true_branches() -> None:
    with torch.device("meta"):
        backbone = build("hrnet_w32")
    assert backbone.channels == (64, 32, 64, 128, 256)
    assert backbone.strides == (2, 4, 8, 16, 32)


def test_an_hrnet_ends_at_the_coarsest_map_that_is_read() -> None:
    """It loses what only its other maps need; names, weights and maps of the rest stay as they are."""
    whole = build("hrnet_w18_small").eval()
    torch.manual_seed(0)
    cut = build_backbone(BackboneConfig("hrnet_w18_small", attention="none"), upto=8).eval()
    assert (cut.channels, cut.strides) == ((64, 16, 32), (2, 4, 8))
    names = whole.net.state_dict().keys()
    assert set(cut.dropped) == names - cut.net.state_dict().keys()
    assert {name.rpartition(".fuse_layers.")[0] for name in cut.dropped} == {"stage4.0"}
    assert {name.rpartition(".fuse_layers.")[2][0] for name in cut.dropped} == {"2", "3"}
    cut.load_state_dict({f"net.{name}": whole.net.state_dict()[name] for name in names - set(cut.dropped)})
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(cut(x), whole(x)[:3], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_only_an_hrnet_is_cut() -> None:
    torch.manual_seed(0)
    found = build_backbone(BackboneConfig("resnet18", attention="none"), upto=4)
    assert found.strides == build().strides
    assert found.dropped == ()


def test_nhwc_networks_come_out_nchw() -> None:
    backbone = build("swin_tiny_patch4_window7_224").eval()
    assert backbone.nhwc
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_network_of_one_stride() -> None:
    with torch.device("meta"):
        assert set(build("vit_tiny_patch16_224", output_stride=16).strides) == {16}


@pytest.mark.parametrize("attention", ["psa_p", "psa_s", "none"])
def test_default_placement_and_options(attention: str) -> None:
    options = {} if attention == "none" else {"init": "torch"}
    backbone = build(attention=attention, attention_options=options)
    assert len(backbone.places) == (0 if attention == "none" else 8)
    assert list(attention_blocks(backbone.net)) == backbone.places


def test_same_seed_same_network() -> None:
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(build(attention="psa_p").eval()(x)[-1], build(attention="psa_p").eval()(x)[-1])


def test_gradients_reach_every_parameter() -> None:
    backbone = build("mobilenetv2_035", "psa_p", output_stride=16, attention_options={"init": "torch"}).train()
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 48, 40))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


FROZEN = [
    ("resnet18", 1, ["conv1", "bn1"]),
    ("resnet18", 3, ["conv1", "bn1", "layer1", "layer2"]),
    ("resnet18", 5, ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
    ("mobilenetv2_035", 1, ["conv_stem", "bn1"]),
    ("mobilenetv2_035", 3, ["conv_stem", "bn1", "blocks.0", "blocks.1"]),
    ("convnext_atto", 2, ["stem_0", "stem_1", "stages_0"]),
    ("regnety_002", 2, ["stem", "s1"]),
    ("hrnet_w18_small", 1, ["conv1", "bn1", "conv2", "bn2"]),
    ("hrnet_w18_small", 3, ["conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2"]),
]


@pytest.mark.parametrize(("name", "stages", "frozen"), FROZEN)
def test_frozen_stages_are_those_from_the_stem_on(name: str, stages: int, frozen: list[str]) -> None:
    with torch.device("meta"):
        backbone = build(name, frozen_stages=stages)
    fixed = {n for n, p in backbone.net.named_parameters() if not p.requires_grad}
    assert fixed == {n for n, _ in backbone.net.named_parameters() if any(n.startswith(f"{f}.") for f in frozen)}


def statistics(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in backbone.net.named_buffers() if n.endswith("running_mean")}


def test_frozen_stages_keep_their_statistics_in_training() -> None:
    backbone = build(frozen_stages=2)
    for mode in (False, True):
        backbone.train(mode)
    before = statistics(backbone)
    backbone(torch.randn(2, 3, 32, 32))
    moved = {n for n, b in statistics(backbone).items() if not torch.equal(b, before[n])}
    assert moved == {n for n in before if n.startswith(("layer2", "layer3", "layer4"))}
    assert backbone.training
    assert backbone.net.layer2.training


def test_attention_in_frozen_stages_learns() -> None:
    backbone = build(attention="nl", frozen_stages=2, freeze_norm=True).train()
    before = statistics(backbone)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 32, 32))).backward()
    moved = {n for n, b in statistics(backbone).items() if not torch.equal(b, before[n])}
    assert moved == {n for n in before if ".attention." in n}
    block = backbone.net.layer1[0].act1.attention
    assert block.norm.weight.grad is not None
    assert backbone.net.layer1[0].conv1.weight.grad is None


def test_freeze_norm_keeps_statistics_but_trains_weights() -> None:
    backbone = build(freeze_norm=True).train()
    before = statistics(backbone)
    backbone(torch.randn(2, 3, 32, 32))[-1].square().mean().backward()
    assert all(torch.equal(b, before[n]) for n, b in statistics(backbone).items())
    assert backbone.net.bn1.weight.grad is not None


def test_eval_is_eval() -> None:
    backbone = build(attention="nl", frozen_stages=1, freeze_norm=True).eval()
    assert not any(module.training for module in backbone.modules())


def test_copy_keeps_what_is_frozen() -> None:
    twin = copy.deepcopy(build(frozen_stages=1)).train()
    assert not twin.net.bn1.training
    assert twin.net.layer1.training


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig("resnet5"), r"backbone 'resnet5' is not a timm model: did you mean resnet50"),
        (BackboneConfig("resnet50.nope"), r"backbone 'resnet50.nope' is not a timm model: did you mean resnet"),
        (BackboneConfig("???"), r"not a timm model: timm.list_models\(\) lists them"),
        (BackboneConfig("resnet18", output_stride=4), r"deepest map of resnet18 can only have 8 or 16 or 32: set it"),
        (
            BackboneConfig("hrnet_w18_small", output_stride=16),
            r"deepest map of hrnet_w18_small can only have 32: set it",
        ),
        (BackboneConfig("vit_tiny_patch16_224"), r"deepest map of vit_tiny_patch16_224 can only have 16: set it"),
        (BackboneConfig("resnet18", attention="psa"), r"'psa' is not on the shelf"),
        (BackboneConfig("resnet18", attention_options={"x": 1}), r"attention psa_p with options {'x': 1}"),
        (BackboneConfig("resnet18", places=["layer1.0.act"]), r"no module 'layer1.0.act': did you mean layer1.0.act"),
        (BackboneConfig("resnet18", frozen_stages=6), r"frozen_stages 6: the network has 5, stem included"),
        (BackboneConfig("resnet18", frozen_stages=-1), r"frozen_stages -1: give 0 or more"),
        (
            BackboneConfig("vit_tiny_patch16_224", output_stride=16, attention="none", frozen_stages=1),
            r"frozen_stages 1: FeatureGetterNet has no stages to tell apart: set it to 0",
        ),
        (BackboneConfig("resnet18", weights="absent.pth"), r"absent.pth: no such weights file"),
    ],
)
def test_bad_config_is_one_line(config: BackboneConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        build_backbone(config)
    assert "\n" not in str(error.value)


def test_attention_in_a_network_that_keeps_its_maps_the_other_way() -> None:
    config = BackboneConfig("swin_tiny_patch4_window7_224", places=["layers_0"])
    backbone = build_backbone(config)
    (block,) = attention_blocks(backbone).values()
    seen: list[tuple[int, ...]] = []
    block.register_forward_hook(lambda _module, args, _out: seen.append(tuple(args[0].shape)))
    maps = backbone(torch.randn(1, 3, 224, 224))
    assert seen == [(1, 96, 56, 56)]
    assert [m.shape[1] for m in maps] == list(backbone.channels)


def test_network_without_feature_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("features_only is not there\nat all")

    monkeypatch.setattr(timm, "create_model", refuse)
    for stride in (16, 32):
        with pytest.raises(InputError, match=r"no feature maps of resnet18 \(features_only is not there\): choose"):
            build(output_stride=stride)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(build().net.state_dict(), file)
    with pytest.raises(InputError, match=r"resnet18\.pth: "):
        build("resnet34", weights=str(file))


def test_weights_file_then_attention(tmp_path: Path) -> None:
    source = build()
    torch.save(source.net.state_dict(), tmp_path / "own.pth")
    backbone = build(attention="psa_p", weights=str(tmp_path / "own.pth"))
    assert torch.equal(backbone.net.layer3[1].conv2.weight, source.net.layer3[1].conv2.weight)
