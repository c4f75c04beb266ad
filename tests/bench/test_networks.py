"""The networks that are timed can be built, with attention in them, and give maps of the right shape."""

import timm
import torch

from polarpix.backbones.insert import attention_blocks
from polarpix.bench.block_settings import Block
from polarpix.bench.networks import BY_DEFAULT, NETWORKS, OTHERS, Network, build_loss, build_network

TINY = {
    "pose": Network("pose", "test_resnet", (64, 32), 3, {"cpu": 2}, {"cpu": 1}, "deconv", (8, 8, 8)),
    "seg": Network("seg", "test_resnet", (30, 64), 3, {"cpu": 2}, {"cpu": 1}, "deeplabv3plus", (8,), output_stride=16),
}


def test_tables_name_what_is_there() -> None:
    known = set(timm.list_models())
    for network in NETWORKS.values():
        assert network.backbone in known
        assert set(network.train) == set(network.infer) == {"cuda", "cpu"}
        assert min(network.train.values()) >= 2  # the image pooling normalises over a batch
    assert set(OTHERS) <= set(NETWORKS)
    assert set(BY_DEFAULT["cpu"]) < set(BY_DEFAULT["cuda"]) == set(NETWORKS)


def test_attention_is_in_the_network_in_the_implementation_asked_for() -> None:
    for network in TINY.values():
        blocks = attention_blocks(build_network(network, Block("psa_p", "reference")))
        assert blocks
        assert {getattr(block, "impl", None) for block in blocks.values()} == {"reference"}
        assert not attention_blocks(build_network(network, Block("none")))


def test_losses_fit_the_outputs() -> None:
    for network in TINY.values():
        net = build_network(network, Block("none"))
        loss = build_loss(network, 2, torch.Generator().manual_seed(0))
        value = loss(net(torch.randn(2, 3, *network.size)))
        assert value.ndim == 0
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert next(net.parameters()).grad is not None


def test_networks_of_others_take_the_same_images() -> None:
    with torch.device("meta"), torch.no_grad():
        for name, size in (("resnet50_pose", (64, 96)), ("mobilenetv2_seg", (72, 104))):  # 72 is no multiple of 32
            network, image = NETWORKS[name], torch.empty(1, 3, *size)
            ours = build_network(network, Block("none")).eval()(image)
            for build in OTHERS[name].values():
                assert build(network).eval()(image).shape == ours.shape
