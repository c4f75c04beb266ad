"""The attention sits where the paper puts it, and nothing else of the network changes."""

import copy
import functools
import pickle
from collections import Counter
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from polarpix.attention import build_attention
from polarpix.backbones.insert import (
    SITES,
    attention_blocks,
    convert_sync_batchnorm,
    find_places,
    insert_attention,
)
from polarpix.errors import InputError


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def blocks() -> nn.Sequential:
    """Two residual blocks of timm, [B, 16, H, W] to the same."""
    torch.manual_seed(0)
    model = nn.Sequential(BasicBlock(16, 16), Bottleneck(16, 4))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@functools.cache
def places_of(network: str) -> dict[str, int]:
    with torch.device("meta"):
        return find_places(timm.create_model(network))


class Plain(nn.Module):
    """A network that no table knows: 3 -> 4 channels, one part used twice, one that gives no map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 1)))
        self.items = nn.ModuleList([nn.Identity()])
        self.unused = nn.Identity()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.items[0](self.twice(self.norm(self.stem(x))))
        return self.head(self.twice(self.body(x)).mean((2, 3)))


# arXiv 2107.00782, tables 2 to 4: parameters with attention less those without, in millions.
@pytest.mark.parametrize(
    ("network", "attention", "published", "places"),
    [
        ("resnet50", "psa_s_released", 36.1 - 34.0, 16),
        ("resnet152", "psa_p_released", 75.2 - 68.6, 50),
        ("hrnet_w32", "psa_p_released", 31.4 - 28.5, 104),
        ("hrnet_w48", "psa_p_released", 70.0 - 63.6, 104),
        ("hrnet_w48", "psa_s_released", 69.1 - 63.8, 104),
        ("resnet50", "psa_p_released", 42.3 - 39.8, 16),
        ("resnet101", "psa_p_released", 63.5 - 58.8, 33),
    ],
)
def test_published_parameter_counts(network: str, attention: str, published: float, places: int) -> None:
    widths = places_of(network)
    assert len(widths) == places
    with torch.device("meta"):
        added = sum(count(build_attention(attention, width)) * n for width, n in Counter(widths.values()).items())
    # Both published figures are rounded to 0.1.
    assert added / 1e6 == pytest.approx(published, abs=0.1)


def test_inserted_parameters_are_those_of_the_blocks() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50")
        before = count(model)
        insert_attention(model, "psa_s_released")
    assert count(model) - before == 2_130_952


@pytest.mark.parametrize(
    ("network", "ends_with"),
    [
        ("resnet18", "act1"),
        ("resnet50", "act2"),
        ("seresnext50_32x4d", "act2"),
        ("hrnet_w18_small", "act1"),
        ("mobilenetv2_100", "bn3.act"),
        ("mobilenetv3_large_100", "bn3.act"),
        ("mobilenetv4_conv_small", "pw_proj.bn.act"),
        ("efficientnet_b0", "bn3.act"),
        ("convnext_atto", "conv_dw"),
        ("convnextv2_atto", "conv_dw"),
    ],
)
def test_original_keys_keep_their_names(network: str, ends_with: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(network)
        before = {key: value.shape for key, value in model.state_dict().items()}
        places = insert_attention(model, "se")
    after = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: shape for key, shape in after.items() if ".attention." not in key} == before
    assert places
    assert all(place.endswith(ends_with) for place in places)
    assert places == list(attention_blocks(model)) == list(dict.fromkeys(places))


def test_hrnet_spares_stem_first_stage_transitions_fuse_layers_and_head() -> None:
    places = places_of("hrnet_w32")
    assert all(".branches." in place for place in places)
    assert sorted(set(places.values())) == [32, 64, 128, 256]


@pytest.mark.parametrize("network", ["mobilenetv2_100", "efficientnet_b0"])
def test_mobile_networks_get_it_after_every_projection_from_the_fourth_stage_on(network: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(network)
        widths = find_places(model)
    expected = [f"blocks.{s}.{i}.bn3.act" for s in range(3, 7) for i in range(len(model.blocks[s]))]
    assert list(widths) == expected
    assert all(model.get_submodule(p.removesuffix(".bn3.act")).conv_pwl.out_channels == w for p, w in widths.items())


def test_basic_block_attends_after_its_first_activation() -> None:
    block = blocks()[0]
    insert_attention(block, "se")
    x = torch.randn(2, 16, 5, 6)
    y = block.act1.attention(block.bn1(block.conv1(x)).relu())
    torch.testing.assert_close(block(x), (block.bn2(block.conv2(y)) + x).relu())


def test_bottleneck_attends_between_its_second_activation_and_third_convolution() -> None:
    block = blocks()[1]
    insert_attention(block, "se")
    x = torch.randn(2, 16, 5, 6)
    y = block.bn1(block.conv1(x)).relu()
    y = block.act2.attention(block.bn2(block.conv2(y)).relu())
    torch.testing.assert_close(block(x), (block.bn3(block.conv3(y)) + x).relu())


@pytest.mark.parametrize("stride", [1, 2])
def test_inverted_residual_attends_after_its_projection(stride: int) -> None:
    block = InvertedResidual(16, 16, stride=stride).eval()
    insert_attention(block, "se")
    x = torch.randn(2, 16, 6, 6)
    y = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
    projected = nn.functional.batch_norm(block.conv_pwl(y), block.bn3.running_mean, block.bn3.running_var)
    y = block.bn3.act.attention(projected)
    torch.testing.assert_close(block(x), y + x if stride == 1 else y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [DepthwiseSeparableConv(16, 16), EdgeResidual(16, 16), ConvNeXtBlock(16)])
def test_every_row_of_the_table_runs(block: nn.Module) -> None:
    x = torch.randn(2, 16, 6, 6)
    block.eval()
    before = block(x)
    (place,) = insert_attention(block, "se")
    assert place == SITES[type(block)].after
    for module in attention_blocks(block).values():
        nn.init.constant_(module.fc2.bias, 40.0)
        nn.init.zeros_(module.fc2.weight)
    torch.testing.assert_close(block(x), before)  # a gate of 1
    for module in attention_blocks(block).values():
        nn.init.constant_(module.fc2.bias, -40.0)
    assert (block(x) - before).abs().max() > 1e-7  # a gate of 0


def test_weights_load_before_or_after() -> None:
    published = blocks().state_dict()
    before, after = blocks(), blocks()
    before.load_state_dict(published)
    insert_attention(before, "psa_p")
    insert_attention(after, "psa_p")
    result = after.load_state_dict(published, strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys
    assert all(".attention." in key for key in result.missing_keys)
    after.load_state_dict(before.state_dict())
    x = torch.randn(1, 16, 4, 5)
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=0)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_attend_with_their_own_weights(way: Callable[[nn.Module], nn.Module]) -> None:
    model = blocks()
    insert_attention(model, "se")
    x = torch.randn(1, 16, 4, 5)
    out = model(x).detach()
    twin = way(model)
    torch.testing.assert_close(twin(x), out, rtol=0, atol=0)
    for block in attention_blocks(twin).values():
        nn.init.constant_(block.fc2.bias, -40.0)
    assert not torch.equal(twin(x), out)
    torch.testing.assert_close(model(x), out, rtol=0, atol=0)


def test_compile_without_graph_break() -> None:
    model = blocks()  # in float64, as eager and compiled code may add in another order
    insert_attention(model, "psa_p")
    model.double()
    x = torch.randn(1, 16, 4, 5, dtype=torch.float64)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    for block in attention_blocks(model).values():
        block.train()
        for parameter in block.parameters():
            parameter.data.add_(1.0)
    torch.testing.assert_close(compiled(x), model(x))
    assert not torch.equal(model(x), expected)


def test_export_holds_the_attention() -> None:
    model = blocks()
    insert_attention(model, "psa_s")
    x = torch.randn(1, 16, 4, 5)
    program = torch.export.export(model, (x,))
    assert program.state_dict.keys() == model.state_dict().keys()
    torch.testing.assert_close(program.module()(x), model(x))


def test_sync_batchnorm_keeps_activation_and_attention() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(InvertedResidual(16, 16), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)).eval()
    insert_attention(model, "se")
    insert_attention(model, "se", ["2"], example=torch.zeros(1, 16, 8, 8))
    x = torch.randn(1, 16, 4, 5)
    expected, places = model(x), list(attention_blocks(model))
    converted = convert_sync_batchnorm(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == 4
    assert list(attention_blocks(converted)) == places
    torch.testing.assert_close(converted(x), expected)


def test_none_inserts_nothing() -> None:
    model = blocks()
    keys = model.state_dict().keys()
    assert insert_attention(model, "none") == []
    assert model.state_dict().keys() == keys


def test_options_dtype_and_mode_reach_the_blocks() -> None:
    model = blocks().double().train()
    insert_attention(model, "psa_s", impl="reference", scale=4.0)
    inserted = list(attention_blocks(model).values())
    assert all((b.impl, b.scale, b.training) == ("reference", 4.0, True) for b in inserted)
    assert model(torch.randn(1, 16, 3, 3, dtype=torch.float64)).dtype == torch.float64


def test_any_module_by_name() -> None:
    model = Plain()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    statistics = model.norm.running_mean.clone()
    assert insert_attention(model, "se", ["body", "stem"]) == ["stem", "body.1.1"]
    assert [b.fc1.in_channels for b in attention_blocks(model).values()] == [4, 4]
    plain_modes = [m.training for n, m in model.named_modules() if ".attention" not in n]
    assert plain_modes == modes
    assert torch.equal(model.norm.running_mean, statistics)
    x = torch.randn(2, 3, 8, 8)
    y = model.norm(model.stem.attention(nn.functional.conv2d(x, model.stem.weight, model.stem.bias, padding=1))).relu()
    first, (_, last) = model.body
    y = last.attention(nn.functional.conv2d(first(y).relu(), last.weight, last.bias)).relu()
    torch.testing.assert_close(model(x), model.head(y.mean((2, 3))))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["body.2"], r"Plain has no module 'body.2': did you mean body.\d"),
        (["zzz"], r"Plain has no module 'zzz': list them"),
        ([""], r"Plain has no module ''"),
        ([], r"places is empty"),
        (["stem", "stem"], r"place stem is named twice"),
        (["body", "body.1.1"], r"place body.1.1 is named twice"),
        (["items"], r"items is a container \(ModuleList\)"),
        (["twice"], r"place twice runs 2 times"),
        (["unused"], r"place unused runs 0 times"),
        (["head"], r"place head gives \[1, 2\]: name a module whose output is a map"),
    ],
)
def test_places_that_cannot_be(places: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        insert_attention(Plain(), "se", places)


def test_refusals_leave_the_network_as_it_was() -> None:
    model = blocks()
    insert_attention(model, "se", ["0.act1"], example=torch.zeros(1, 16, 8, 8))
    keys = list(model.state_dict())
    with pytest.raises(InputError, match=r"place 0\.act1 has attention already"):
        insert_attention(model, "se")
    with pytest.raises(InputError, match="not on the shelf"):
        insert_attention(model, "nope", ["1.act2"], example=torch.zeros(1, 16, 8, 8))
    assert list(model.state_dict()) == keys


def test_network_without_known_block() -> None:
    with pytest.raises(InputError, match=r"Plain has no block that attention is known for \(BasicBlock.*name places="):
        insert_attention(Plain(), "se")


def test_shared_module_is_refused() -> None:
    model = Plain()
    model.again = model.stem
    with pytest.raises(InputError, match="place stem is shared"):
        insert_attention(model, "se", ["stem"])


def test_part_named_attention_is_refused() -> None:
    model = Plain()
    model.stem.attention = nn.Identity()
    with pytest.raises(InputError, match="has a part named 'attention' of its own"):
        insert_attention(model, "se", ["stem"])


def test_input_that_does_not_run_asks_for_an_example() -> None:
    model = nn.Sequential(nn.Conv2d(5, 4, 1))
    with pytest.raises(InputError, match=r"does not run on a \[1, 3, 64, 96\] input .*: give example="):
        insert_attention(model, "se", ["0"])
    assert not model[0]._forward_hooks
    assert insert_attention(model, "se", ["0"], example=torch.zeros(1, 5, 2, 2)) == ["0"]


@pytest.mark.parametrize("attention", ["psa_p", "nl"])  # the gated map is at least zero with one, not with the other
def test_torchvision_blocks_attend_where_timm_blocks_do(attention: str) -> None:
    ours = blocks()
    theirs = nn.Sequential(torchvision_resnet.BasicBlock(16, 16), torchvision_resnet.Bottleneck(16, 4)).eval()
    theirs.load_state_dict(ours.state_dict())
    assert insert_attention(theirs, attention) == ["0.conv2", "1.conv3"]
    names = {"act1": "conv2", "act2": "conv3"}
    insert_attention(ours, attention)
    for block in attention_blocks(ours).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
    for place, block in attention_blocks(ours).items():
        index, module = place.split(".")
        attention_blocks(theirs)[f"{index}.{names[module]}"].load_state_dict(block.state_dict())
    x = torch.randn(2, 16, 6, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(x), ours(x))
    with pytest.raises(InputError, match=r"place 0\.conv2 has attention already"):
        insert_attention(theirs, attention)


class Last(nn.Module):
    """[B, 3, H, W] to maps [B, H, W, 6], as Swin keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.grow(x.permute(0, 2, 3, 1))


def test_maps_with_the_channels_last() -> None:
    model = Last()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    plain = model(x)
    insert_attention(model, "psa_p", ["grow"], init="torch")
    block = attention_blocks(model)["grow"]
    torch.testing.assert_close(model(x), block(plain.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert not torch.allclose(model(x), plain)


def test_a_map_that_may_be_either_way_round_asks_for_an_example() -> None:
    model = Last()
    with pytest.raises(InputError, match=r"place grow gives \[1, 6, 6, 6\], which may be .*give an example="):
        insert_attention(model, "se", ["grow"], example=torch.zeros(1, 3, 6, 6))
    assert insert_attention(model, "se", ["grow"], example=torch.zeros(1, 3, 6, 9)) == ["grow"]


def test_a_convolution_is_never_taken_for_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1))
    assert insert_attention(model, "se", ["0"], example=torch.zeros(1, 3, 6, 6)) == ["0"]
    assert model(torch.zeros(1, 3, 4, 5)).shape == (1, 6, 4, 5)
