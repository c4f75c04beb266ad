"""Which kernels are compiled, and what they are known by."""

import dataclasses

from polarpix.bench.kernels_jobs import CARDS, LAUNCHES, MAPS, ODD, bare, fingerprint, jobs
from polarpix.psa import plans

ONE = {"bf16": [(32, 64, 64, 48)]}


def test_each_kernel_once():
    """Another map of the same channels and kind of tile brings no new kernel, an odd one does."""
    names = [job.step.name for job in jobs(ONE, CARDS[:1])]
    assert set(names) == {one.name for one in LAUNCHES if not one.small}
    more = {"bf16": [*ONE["bf16"], (4, 64, 128, 64)]}
    assert len(list(jobs(more, CARDS[:1]))) == len(names)
    odd = {"bf16": [*ONE["bf16"], (4, 64, 65, 65)]}
    new = list(jobs(odd, CARDS[:1]))[len(names) :]
    assert new
    assert {job.memory for job in new} == {"contiguous", "channels_last"}
    assert all(job.gradient == "contiguous" for job in new if job.memory == "channels_last")  # which is odd, too


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
        dataclasses.replace(job, at_will=True),
        dataclasses.replace(job, plan=dataclasses.replace(job.plan, BP=16)),
    ):
        assert other.compiled_for != job.compiled_for
