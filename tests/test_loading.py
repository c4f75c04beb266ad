"""Samplers and loaders: the same samples in the same order however many processes share them."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.loading import EpochSampler, Key, Loader, build_loader, sample_rng


class Numbers:
    """Item (epoch, position) is [epoch, position, one random number]; the pictures in ``bad`` cannot be read."""

    def __init__(self, length: int, bad: tuple[int, ...] = (), drift: int = 0) -> None:
        self.length, self.bad, self.drift = length, bad, drift

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> list[float]:
        epoch, position = key
        if self.picture(key) in self.bad:
            raise InputError(f"{self.file(self.picture(key))}: image is damaged: save it again")
        return [epoch, position, sample_rng(3, key).random()]

    def count(self) -> int:
        return self.length

    def picture(self, key: Key) -> int:
        """Another one in each epoch, where there is a drift."""
        return (key[1] + self.drift * key[0]) % self.length

    def file(self, picture: int) -> str:
        return f"{picture}.png"


def collate(items: list[list[float]]) -> torch.Tensor:
    return torch.tensor(items, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 70),
    world=st.integers(1, 5),
    batch=st.integers(1, 8),
    epoch=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_ranks_share_the_steps_of_one_process(length: int, world: int, batch: int, epoch: int, seed: int) -> None:
    if length < world:
        return
    together = EpochSampler(length, seed, shuffle=True)
    together.set_epoch(epoch)
    order = list(together)
    assert sorted(position for _, position in order) == list(range(length))
    parts = []
    for rank in range(world):
        sampler = EpochSampler(length, seed, shuffle=True, rank=rank, world=world)
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == length // world
    steps = length // world // batch
    for step in range(steps):
        shared = [key for part in parts for key in part[step * batch : (step + 1) * batch]]
        assert sorted(shared) == sorted(order[step * batch * world : (step + 1) * batch * world])


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 50), world=st.integers(1, 5))
def test_evaluation_visits_every_sample_once(length: int, world: int) -> None:
    if length < world:
        return
    samplers = [EpochSampler(length, 0, shuffle=False, rank=rank, world=world) for rank in range(world)]
    seen = Counter(position for sampler in samplers for _, position in sampler)
    assert seen == dict.fromkeys(range(length), 1)
    assert sum(len(sampler) for sampler in samplers) == length


def test_the_order_changes_with_epoch_and_seed_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(40, seed, shuffle=True)
        sampler.set_epoch(epoch)
        return [position for _, position in sampler]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_fewer_samples_than_processes(shuffle: bool) -> None:
    with pytest.raises(InputError, match="2 samples cannot be shared by 3 processes"):
        EpochSampler(2, 0, shuffle, rank=0, world=3)


def test_a_sample_is_random_in_its_epoch_and_position_alone() -> None:
    assert sample_rng(1, (2, 3)).random() == sample_rng(1, (2, 3)).random()
    assert len({sample_rng(*key).random() for key in [(1, (2, 3)), (1, (3, 2)), (1, (2, 4)), (2, (2, 3))]}) == 4


def loader(
    length: int,
    training: bool,
    workers: int,
    bad: tuple[int, ...] = (),
    start: int = 0,
    skip: bool = False,
    drift: int = 0,
) -> Loader[torch.Tensor]:
    return build_loader(
        Numbers(length, bad, drift),
        collate,
        seed=7,
        training=training,
        batch_size=4,
        workers=workers,
        rank=0,
        world=1,
        start=start,
        skip=skip,
    )


def test_workers_change_nothing() -> None:
    ours, theirs = loader(11, True, 0), loader(11, True, 1)
    for epoch in (0, 1):
        for one in (ours, theirs):
            assert isinstance(one.sampler, EpochSampler)
            one.sampler.set_epoch(epoch)
        here, there = list(ours), list(theirs)
        assert len(here) == len(there) == len(ours) == 2  # the last three are left out
        for a, b in zip(here, there, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
            assert (a[:, 0] == epoch).all()


def test_incomplete_batches_are_dropped_in_training_only() -> None:
    assert [len(batch) for batch in loader(11, False, 0)] == [4, 4, 3]
    assert [len(batch) for batch in loader(3, True, 0)] == [3]  # all there is


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_reaches_the_reader_as_one_line(workers: int) -> None:
    batches = iter(loader(11, False, workers, bad=(5, 6)))
    assert len(next(batches)) == 4
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "5.png: image is damaged: save it again"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_leaves_out_what_was_had(workers: int) -> None:
    whole, rest = loader(22, True, 0), loader(22, True, workers, start=2)
    for epoch in (3, 4):
        for one in (whole, rest):
            assert isinstance(one.sampler, EpochSampler)
            one.sampler.set_epoch(epoch)
        here, there = list(whole), list(rest)
        left_out = 2 if epoch == 3 else 0  # the first epoch that is asked for, and no later one
        assert len(here) == len(there) + left_out == 5
        for a, b in zip(here[left_out:], there, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_passed_over_only_when_asked_and_in_training(workers: int) -> None:
    passing = loader(12, True, workers, bad=(4, 5, 11), skip=True)
    found = torch.cat(list(passing))
    assert sorted(found[:, 1].tolist()) == [0, 0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10]  # 4 and 5 became 6, 11 became 0
    assert passing.unreadable() == ["4.png", "5.png", "11.png"]
    drawn = loader(12, True, workers, bad=(4, 5, 11), skip=True, drift=3)
    for epoch in (1, 2, 0):  # met at another position in each
        drawn.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        read = [drawn.dataset.dataset.picture((int(a), int(b))) for a, b, _ in torch.cat(list(drawn)).tolist()]
        assert len(read) == 12
        assert not {4, 5, 11} & set(read)
    assert drawn.unreadable() == ["4.png", "5.png", "11.png"]
    with pytest.raises(InputError, match=r"4\.png"):
        list(loader(12, False, workers, bad=(4, 5, 11), skip=True))
    with pytest.raises(InputError, match="image is damaged"):
        list(loader(4, True, workers, bad=(0, 1, 2, 3), skip=True))
