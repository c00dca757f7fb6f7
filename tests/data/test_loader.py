"""Loaders load every image once, in an order that depends on (seed, epoch)."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_prune.data.loader import Images, Loader, TrainLoader
from lit_prune.errors import InputError
from tests.devices import DEVICES


def numbered(count):
    """Make images whose labels tell them apart."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return Images(images, np.arange(count))


def rows(batches):
    return [batch.labels.tolist() for batch in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


def keyed(batches):
    return [(batch.key, batch.labels.tolist()) for batch in batches]


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return rows(loader)


sharing = st.tuples(st.integers(1, 120), st.integers(2, 40), st.integers(1, 5))


@given(sharing)
def test_evaluation_shares_are_exact(case):
    count, batch_size, replicas = case
    loaders = [Loader(numbered(count), batch_size, replicas, rank) for rank in range(replicas)]
    found = [rows(loader) for loader in loaders]
    assert sorted(flat(flat(found))) == list(range(count))
    for loader, batches in zip(loaders, found, strict=True):
        assert len(loader) == len(batches)
        assert flat(batches) == loader.share.tolist() == sorted(loader.share)
        assert all(len(batch) == batch_size for batch in batches[:-1])


@given(sharing, st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_training_shares_are_equal_without_duplicates(case, seed, epoch):
    count, batch_size, replicas = case
    if count < 2 * replicas:
        return
    images = numbered(count)
    loaders = [TrainLoader(images, batch_size, seed, replicas, rank) for rank in range(replicas)]
    found = [epoch_of(loader, epoch) for loader in loaders]
    sizes = [[len(batch) for batch in batches] for batches in found]
    assert all(size == sizes[0] for size in sizes)
    assert [len(loader) for loader in loaders] == [len(sizes[0])] * replicas
    assert all(size == batch_size for size in sizes[0][:-1])
    assert 2 <= sizes[0][-1] <= batch_size + 1
    seen = flat(flat(found))
    assert len(set(seen)) == len(seen) == count // replicas * replicas
    assert set(seen) <= set(range(count))


def test_all_processes_together_load_what_one_would_load():
    images = numbered(96)
    alone = epoch_of(TrainLoader(images, 16, seed=5), 3)
    shared = [epoch_of(TrainLoader(images, 4, 5, 4, rank), 3) for rank in range(4)]
    assert [sorted(flat(step)) for step in zip(*shared, strict=True)] == [sorted(batch) for batch in alone]


def test_different_images_are_skipped_in_different_epochs():
    images = numbered(11)
    seen = [set(flat(flat(epoch_of(TrainLoader(images, 4, 0, 2, rank), e) for rank in range(2)))) for e in range(60)]
    assert all(len(epoch) == 10 for epoch in seen)
    assert set.union(*(set(range(11)) - epoch for epoch in seen)) == set(range(11))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_depends_only_on_seed_and_epoch(workers):
    loader = TrainLoader(numbered(50), 8, seed=1, num_workers=workers)
    torch.manual_seed(0)
    first = epoch_of(loader, 4)
    state = torch.get_rng_state()
    assert epoch_of(loader, 5) != first
    assert epoch_of(TrainLoader(numbered(50), 8, seed=2), 4) != first
    torch.manual_seed(99)
    again = TrainLoader(numbered(50), 8, seed=1)
    assert epoch_of(again, 4) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was not used


def test_the_epoch_may_be_set_between_iter_and_next():
    wanted = epoch_of(TrainLoader(numbered(50), 8, seed=1), 7)
    loader = TrainLoader(numbered(50), 8, seed=1, num_workers=1)
    batches = iter(loader)
    loader.set_epoch(7)
    assert rows(batches) == wanted


def test_batches_have_matching_images_labels_and_keys():
    images = numbered(20)
    loader = TrainLoader(images, 6, seed=3, replicas=2, rank=1)
    loader.set_epoch(2)
    for number, batch in enumerate(loader):
        assert batch.labels is not None
        np.testing.assert_array_equal(batch.images, images.images[batch.labels])
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        assert batch.key == (3, 2, number, 1)
    assert [batch.key for batch in Loader(images, 6)] == [None] * 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.gate
def test_a_loader_resumes_where_its_state_was_taken(workers):
    loader = TrainLoader(numbered(41), 8, seed=3, num_workers=workers)
    loader.set_epoch(6)
    whole = keyed(loader)
    assert len(whole) == len(loader) == 5
    for stop in range(1, 5):
        batches = iter(loader)
        for _ in range(stop):
            next(batches)
        state = loader.state_dict()
        resumed = TrainLoader(numbered(41), 8, seed=3, num_workers=workers)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert len(resumed) == 5
        iterator = iter(resumed)
        resumed.set_epoch(6)
        assert keyed(iterator) == whole[stop:]
        assert rows(resumed) == [labels for _, labels in whole]  # the next time from the beginning


def test_a_state_of_another_epoch_starts_from_the_beginning():
    loader = TrainLoader(numbered(40), 8, seed=3)
    list(loader)
    state = loader.state_dict()
    resumed = TrainLoader(numbered(40), 8, seed=3)
    resumed.load_state_dict(state)
    assert len(epoch_of(resumed, 1)) == 5


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 9}, {"seed": 4}, {"replicas": 2}, {"images": numbered(42)}],
    ids=lambda change: next(iter(change)),
)
def test_changed_settings_are_refused_within_an_epoch(change):
    arguments = {"images": numbered(41), "batch_size": 8, "seed": 3}
    loader = TrainLoader(**arguments)
    next(iter(loader))
    resumed = TrainLoader(**(arguments | change))
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(InputError, match=r"the checkpoint's .* to resume after batch 1 of epoch 0, but got \{"):
        next(iter(resumed))


def test_a_process_needs_two_images():
    with pytest.raises(InputError, match=r"at least 4 training images for 2 process\(es\), but got 3"):
        TrainLoader(numbered(3), 2, seed=0, replicas=2)


def test_epochs_are_equal_without_shuffling():
    loader = TrainLoader(numbered(20), 8, seed=3, shuffle=False)
    assert epoch_of(loader, 0) == epoch_of(loader, 1) == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]


def contents(batches):
    """Return everything in the batches, as bytes and numbers."""
    return [(batch.images.cpu().numpy().tobytes(), batch.labels.tolist(), batch.key) for batch in batches]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_holds_the_images_gathers_the_same_batches(device):
    random = np.random.default_rng()
    count, size = int(random.integers(20, 200)), int(random.integers(2, 30))
    images = numbered(count)
    chosen = Images(images.images, images.labels, np.sort(random.permutation(count)[: count - 7]))
    for make in (lambda **kw: Loader(chosen, size, 2, 1, **kw), lambda **kw: TrainLoader(chosen, size, 5, 2, 1, **kw)):
        host, there = make(), make(device=torch.device(device))
        for _ in range(2):
            got = list(there)
            assert {value.device.type for batch in got for value in batch[:2] if value is not None} == {device}
            assert contents(got) == contents(host)


@pytest.mark.parametrize("device", DEVICES)
def test_a_loader_on_a_device_resumes_where_its_state_was_taken(device):
    loader = TrainLoader(numbered(41), 8, seed=3, device=torch.device(device))
    whole = contents(loader)
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    assert state == {"epoch": 0, "batch": 2, "plan": {"images": 41, "batch_size": 8, "seed": 3, "processes": 1}}
    host = TrainLoader(numbered(41), 8, seed=3)  # a run may resume on another device
    resumed = TrainLoader(numbered(41), 8, seed=3, device=torch.device(device))
    for one in (host, resumed):
        one.load_state_dict(state)
        assert contents(one) == whole[2:]


@pytest.mark.parametrize("device", DEVICES)
def test_images_without_labels_and_no_images_are_gathered_too(device):
    device = torch.device(device)
    (batch,) = Loader(Images(numbered(3).images), 5, device=device)
    assert batch.labels is None
    assert torch.equal(batch.images.cpu(), torch.from_numpy(numbered(3).images))
    assert list(Loader(Images(numbered(3).images), 5, replicas=9, rank=8, device=device)) == []


@pytest.mark.gpu
def test_with_workers_images_stay_in_page_locked_host_memory():
    images, device = numbered(20), torch.device("cuda")
    batches = list(Loader(images, 8, num_workers=1, device=device))
    assert contents(batches) == contents(Loader(images, 8, device=device))
    assert all(batch.images.is_pinned() for batch in batches)
