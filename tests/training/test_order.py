import itertools

import pytest

from memdec.training.order import MicroBatch, ResumableLoader, WindowOrder


def order(num_windows=23, batch_size=8, micro_batch_size=2, seed=3, rank=0, num_ranks=1, epoch=0):
    made = WindowOrder(num_windows, batch_size, micro_batch_size, seed, rank, num_ranks)
    made.set_epoch(epoch)
    return made


def steps(micro_batches):
    """Windows of each optimizer step, in order, from the micro-batches of one rank."""
    return [step for step, _ in itertools.groupby(b.step_windows for b in micro_batches)]


def test_each_window_comes_once_an_epoch_in_an_order_of_its_own():
    orders = [[w for b in order(epoch=e) for w in b.windows] for e in range(3)]
    for windows in orders:
        assert sorted(windows) == list(range(23))
    assert len({tuple(windows) for windows in [*orders, list(range(23))]}) == 4
    assert [w for b in order(seed=4) for w in b.windows] != orders[0]
    assert [w for b in order() for w in b.windows] == orders[0]


def test_micro_batches_fill_their_step():
    batches = list(order())
    assert len(batches) == len(order()) == 12
    assert [len(step) for step in steps(batches)] == [8, 8, 7]
    for step in steps(batches):
        mine = [b for b in batches if b.step_windows == step]
        assert [w for b in mine for w in b.windows] == list(step)
        assert len(mine) == 4
        assert all(1 <= len(b.windows) <= 2 and b.counts for b in mine)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("num_windows", [23, 24, 17, 5, 1])
def test_ranks_share_each_step_and_see_the_same_steps_as_one_process(num_ranks, num_windows):
    alone = list(order(num_windows, batch_size=12, micro_batch_size=1))
    ranks = [
        list(order(num_windows, 12, 1, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)
    ]
    assert len({len(batches) for batches in ranks}) == 1  # nobody waits for a pass that never comes
    for batches in ranks:
        assert steps(batches) == steps(alone)
    for step in steps(alone):
        dealt = [
            w
            for batches in ranks
            for b in batches
            if b.step_windows == step and b.counts
            for w in b.windows
        ]
        assert sorted(dealt) == sorted(step)


def test_a_rank_without_a_window_gets_a_filler_that_does_not_count():
    one, two = (list(order(1, 4, 2, rank=rank, num_ranks=2)) for rank in (0, 1))
    assert one == [MicroBatch((0,), (0,))]
    assert two == [MicroBatch((0,), (0,), counts=False)]


def loader(**options):
    data = list(range(100))

    class Windows:
        def __getitem__(self, micro):
            return [data[w] for w in micro.windows]

    return ResumableLoader(Windows(), sampler=order(), batch_size=None, **options)


def test_a_loader_goes_on_where_its_state_says():
    whole = list(loader())
    first = loader()
    iterator = iter(first)
    taken = [next(iterator) for _ in range(5)]
    assert first.state_dict() == {"taken": 5}
    second = loader()
    second.load_state_dict(first.state_dict())
    assert taken + list(second) == whole
    assert list(second) == whole  # the next epoch is whole again
    assert second.state_dict() == {"taken": 0}


def test_a_resumed_epoch_that_is_not_asked_for_its_end_leaves_the_next_one_whole():
    resumed = loader()
    resumed.load_state_dict({"taken": 9})
    iterator = iter(resumed)
    rest = [next(iterator) for _ in range(3)]  # Lightning counts, and stops at the last batch
    assert rest == list(loader())[9:]
    assert list(resumed) == list(loader())


def test_before_and_after_an_epoch_nothing_is_taken():
    made = loader()
    assert made.state_dict() == {"taken": 0}
    list(made)
    assert made.state_dict() == {"taken": 0}
