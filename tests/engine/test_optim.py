"""Schedules against values worked out by hand, and who gets which rate and decay."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polarpix.backbones.extract import build_backbone
from polarpix.backbones.insert import attention_blocks
from polarpix.engine.optim import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule, lr_factor, parameter_groups
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig, OptimConfig


@pytest.mark.parametrize(
    ("config", "done", "factor"),
    [
        (OptimConfig(schedule="step", milestones=[4, 8]), 0, 1.0),
        (OptimConfig(schedule="step", milestones=[4, 8]), 39, 1.0),
        (OptimConfig(schedule="step", milestones=[4, 8]), 40, 0.1),
        (OptimConfig(schedule="step", milestones=[4, 8]), 80, 0.01),
        (OptimConfig(schedule="poly", power=0.9), 0, 1.0),
        (OptimConfig(schedule="poly", power=0.9), 50, 0.5**0.9),
        (OptimConfig(schedule="poly", power=2.0), 75, 0.0625),
        (OptimConfig(schedule="poly"), 100, 0.0),
        (OptimConfig(schedule="cosine"), 0, 1.0),
        (OptimConfig(schedule="cosine"), 25, 0.5 + math.sqrt(0.125)),
        (OptimConfig(schedule="cosine"), 50, 0.5),
        (OptimConfig(schedule="cosine"), 100, 0.0),
        (OptimConfig(schedule="cosine"), 101, 0.0),
        (OptimConfig(schedule="poly", power=1.0, warmup=2.0), 0, 0.05),
        (OptimConfig(schedule="poly", power=1.0, warmup=2.0), 9, 0.5 * 0.91),
        (OptimConfig(schedule="poly", power=1.0, warmup=2.0), 19, 0.81),
        (OptimConfig(schedule="step", milestones=[9], warmup=0.5), 1, 0.4),
        (OptimConfig(schedule="step", milestones=[9], warmup=0.5), 4, 1.0),
    ],
)
def test_factors_of_100_updates_in_10_epochs(config: OptimConfig, done: int, factor: float) -> None:
    assert lr_factor(done, 100, 10, config) == pytest.approx(factor, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    total=st.integers(1, 400),
    epochs=st.integers(1, 30),
    warmup=st.floats(0, 3),
)
def test_the_rate_rises_then_falls(name: str, total: int, epochs: int, warmup: float) -> None:
    config = OptimConfig(schedule=name, milestones=[2, 5], warmup=warmup)  # type: ignore[arg-type]  # a drawn name
    bare = OptimConfig(schedule=name, milestones=[2, 5])  # type: ignore[arg-type]  # a drawn name
    factors = [lr_factor(done, total, epochs, config) for done in range(total + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    after = [done for done in range(total + 1) if (done + 1) * epochs / total >= warmup]
    for done in after[1:]:
        assert factors[done] <= factors[done - 1] + 1e-9 or done == after[0]
        assert factors[done] == pytest.approx(lr_factor(done, total, epochs, bare))


def test_the_schedule_drives_the_optimizer() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.2}], lr=9.0)
    schedule = build_schedule(optimizer, total=4, epochs=2, config=OptimConfig(schedule="poly", power=1.0))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.2, 0.15, 0.1, 0.05])


def network() -> tuple[nn.Module, nn.Module]:
    backbone = build_backbone(BackboneConfig(name="test_resnet", attention="psa_p", frozen_stages=1))
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))})
    return model, backbone


def test_parts_get_their_own_rate_and_norms_no_decay() -> None:
    model, backbone = network()
    attention = attention_blocks(backbone)
    config = OptimConfig(lr=0.1, backbone_lr=0.5, attention_lr=2.0, weight_decay=0.01, decay_norm=False)
    groups = {group["name"]: group for group in parameter_groups(model, backbone, attention.values(), config)}
    parts = {"head": 0.1, "backbone": 0.05, "attention": 0.2}
    assert set(groups) == {*parts, *(f"{part} without decay" for part in parts)}
    for name, group in groups.items():
        assert group["lr"] == pytest.approx(parts[name.removesuffix(" without decay")])
        assert group["weight_decay"] == (0.0 if name.endswith("without decay") else 0.01)
        assert all((p.ndim <= 1) == name.endswith("without decay") for p in group["params"])
    of_attention = {id(p) for block in attention.values() for p in block.parameters()}
    for name, group in groups.items():
        assert all((id(p) in of_attention) == name.startswith("attention") for p in group["params"])
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) < len(list(model.parameters()))  # the frozen stem is in no group


def test_published_recipes_decay_everything() -> None:
    model, backbone = network()
    groups = parameter_groups(model, backbone, attention_blocks(backbone).values(), OptimConfig(weight_decay=0.3))
    assert [group["weight_decay"] for group in groups] == [0.3] * 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_keep_the_groups(name: str) -> None:
    model, backbone = network()
    config = OptimConfig(name=name, lr=0.1, backbone_lr=0.5)  # type: ignore[arg-type]  # one of the literals
    optimizer = build_optimizer(model, backbone, [], config)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.05, 0.1])
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    assert type(optimizer) is kinds[name]
    assert optimizer.defaults.get("momentum", 0.9) == 0.9


def test_unknown_choices() -> None:
    model, backbone = network()
    with pytest.raises(InputError, match="choose one of adam, adamw, sgd"):
        build_optimizer(model, backbone, [], OptimConfig(name="lamb"))  # type: ignore[arg-type]  # wrong on purpose
    optimizer = build_optimizer(model, backbone, [], OptimConfig())
    with pytest.raises(InputError, match="choose one of step, poly, cosine"):
        build_schedule(optimizer, 9, 3, OptimConfig(schedule="linear"))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InputError, match=r"without optim\.milestones"):
        build_schedule(optimizer, 9, 3, OptimConfig(schedule="step"))
