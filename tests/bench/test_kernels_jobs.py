"""Which kernels are compiled, and what they are known by."""

import dataclasses

import pytest
import torch

from polarpix.bench.kernels_jobs import (
    CARDS,
    KINDS,
    LAUNCHES,
    MAPS,
    ODD,
    Job,
    asked_for,
    bare,
    chain,
    constants,
    fingerprint,
    jobs,
    plan_of,
)
from polarpix.psa import launch, plans

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ONE = {"bf16": [(32, 64, 64, 48)]}


def test_each_kernel_once():
    """Another map of the same channels and kind of tile brings no new kernel, an odd one does."""
    names = [job.step.name for job in jobs(ONE, CARDS[:1])]
    assert set(names) == {one.name for one in LAUNCHES if not one.small}
    more = {"bf16": [*ONE["bf16"], (32, 64, 64, 56)]}
    assert len(list(jobs(more, CARDS[:1]))) == len(names)
    odd = {"bf16": [*ONE["bf16"], (32, 64, 55, 55)]}
    new = list(jobs(odd, CARDS[:1]))[len(names) :]
    assert new
    assert {job.memory for job in new} == {"contiguous", "channels_last"}
    assert all(job.gradient == "contiguous" for job in new if job.memory == "channels_last")  # which is odd, too


def test_programs_that_share_a_sample_are_as_many_as_the_card_has_room_for():
    few, many = (
        {job.plan.S for job in jobs({"bf16": [(32, 512, 64, 48)]}, [card]) if job.step.shared}
        for card in (dataclasses.replace(CARDS[0], multiprocessors=count) for count in (32, 1024))
    )
    assert max(few) < min(many)


@pytest.fixture
def launched(monkeypatch):
    """Kernels that are launched, by name, with their constants; none runs. Stages that follow each other are one."""
    from triton.runtime import interpreter

    seen = []

    def call(self, *args, **more):
        name = self.fn.__name__
        given = {one: more[one] for one in asked_for(name)}
        if given.get("BEGIN", 0):
            seen[-1][1]["END"] = given["END"]
        else:
            seen.append((name, given))

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", call)
    return seen


@pytest.mark.interpreter
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(("form", "layout"), KINDS)
@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (32, 256, 16, 12), (2, 512, 128, 64)], ids=str)
def test_what_is_compiled_is_what_is_launched(launched, shape, form, layout, memory):
    """Every launch of a call has its job, with the same constants."""
    x = torch.empty(shape, dtype=torch.bfloat16).contiguous(memory_format=FORMATS[memory])
    weights = [torch.empty(shape[1])] * len(launch.PARAMETERS[form])
    _, state = launch.forward(x, weights, form, layout, 1.0)
    launch.backward(x, x, state, weights, form, layout, 1.0)
    card = next(card for card in CARDS if card.multiprocessors == plans.MULTIPROCESSORS)
    last = memory == "channels_last"
    found = [
        Job(step, plan, form, layout, "bf16", card)
        for backward in (False, True)
        for plan in [plan_of(shape, "bf16", last, form, card, last if backward else None)]
        for step in chain(plan, form, backward)
    ]
    for _, given in launched:
        if "CHAIN" in given:
            assert not given["CHAIN"]  # programs that run one after the other overlap none
            given["CHAIN"] = True
    assert [(job.step.name, constants(job)) for job in found] == launched
    assert {job.compiled_for for job in found} <= {job.compiled_for for job in jobs({"bf16": [shape]}, [card])}


def test_pairs_of_odd_and_even_maps_are_in_the_grid():
    for odd, even in ODD:
        assert {odd, even} <= set(MAPS)
        assert odd[:2] == even[:2]
        assert odd[2] * odd[3] % 2
        assert even[2] * even[3] % 8 == 0
        assert 0.98 < odd[2] * odd[3] / (even[2] * even[3]) < 1.02


def test_fingerprint_follows_code_and_plans(monkeypatch):
    before = fingerprint(ONE)
    assert fingerprint(ONE) == before
    assert fingerprint({"bf16": [(32, 64, 64, 40)]}) != before
    real = plans.Plan.options
    monkeypatch.setattr(plans.Plan, "options", lambda self, *args: real(self, *args) | {"maxnreg": 77})
    assert fingerprint(ONE) != before
    monkeypatch.undo()
    monkeypatch.setattr("polarpix.bench.kernels_jobs.bare", lambda source: bare(source) + "+ 0")
    assert fingerprint(ONE) != before


def test_bare_code():
    """Words about the code do not count, the code does."""
    told = '"""Page."""\n\ndef f(x):  # why\n    """What."""\n    return x + 1\n'
    assert bare(told) == bare("def f(x):\n    return x+1")
    assert bare(told) != bare(told.replace("+", "-"))


def test_compiled_for_what_makes_the_code():
    job = next(job for job in jobs(ONE, CARDS[:1]) if job.step.name == "pool")
    assert job.compiled_for == dataclasses.replace(job, form="released").compiled_for  # pool knows no form
    for other in (
        dataclasses.replace(job, dtype="fp16"),
        dataclasses.replace(job, card=CARDS[1]),
        dataclasses.replace(job, again=1),
        dataclasses.replace(job, plan=dataclasses.replace(job.plan, first=dataclasses.replace(job.tiles, K=16))),
    ):
        assert other.compiled_for != job.compiled_for
    second = dataclasses.replace(job.plan, second=dataclasses.replace(job.tiles, K=16))  # not of this pass
    assert dataclasses.replace(job, plan=second).compiled_for == job.compiled_for
