from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yarbus.data.sampler import SharedRows, StepSampler, drawn

SIZES = {"num_samples": st.integers(1, 50), "batch": st.integers(1, 20), "seed": st.integers(0, 2**32 - 1)}


@given(**SIZES, epochs=st.integers(1, 3))
def test_every_epoch_sees_every_row_once(num_samples, batch, seed, epochs):
    sampler = StepSampler(num_samples, batch, seed)
    visits = [visit for step in range(sampler.steps(float(epochs))) for visit in sampler.visits(step)]
    for epoch in range(epochs):
        assert sorted(row for visited, row in visits if visited == epoch) == list(range(num_samples))
    assert all(len(sampler.visits(step)) == batch for step in range(3))


@given(**SIZES, step=st.integers(0, 1000), share=st.integers(1, 6), world=st.integers(1, 4))
def test_a_step_holds_the_same_rows_however_many_processes_share_it(num_samples, batch, seed, step, share, world):
    whole = StepSampler(num_samples, share * world, seed)
    parts = [visit for rank in range(world) for visit in whole.visits(step, rank, world)]
    assert parts == whole.visits(step)


@given(**SIZES, step=st.integers(0, 1000))
def test_a_step_depends_on_nothing_that_came_before(num_samples, batch, seed, step):
    used = StepSampler(num_samples, batch, seed)
    for earlier in range(5):
        used.indices(earlier)
    assert used.indices(step) == StepSampler(num_samples, batch, seed).indices(step)


def test_epochs_and_seeds_have_orders_of_their_own():
    sampler = StepSampler(100, 100, 0)
    assert sampler.indices(0) != sampler.indices(1)
    assert sampler.indices(0) != StepSampler(100, 100, 1).indices(0)


def test_the_order_is_the_one_of_every_other_machine():
    assert StepSampler(10, 5, 0).indices(0) == [3, 7, 6, 4, 1]


def test_part_of_an_epoch_is_as_many_steps_as_it_needs():
    assert [StepSampler(10, 4, 0).steps(epochs) for epochs in (0.1, 0.5, 1.0, 2.0)] == [1, 2, 3, 5]


# ---- shares ----


def classes_of(first: int, *sizes: int) -> tuple[np.ndarray, ...]:
    """Rows of classes of these sizes, one behind the other."""
    ends = np.cumsum([first, *sizes])
    return tuple(np.arange(start, stop) for start, stop in pairwise(ends))


def visits_of(sampler: StepSampler, steps: int) -> list[tuple[int, int]]:
    return [visit for step in range(steps) for visit in sampler.visits(step)]


@st.composite
def shared_samplers(draw):
    """(sampler, number of other rows, sizes of the classes of each source); the others stand first."""
    others = draw(st.integers(1, 40))
    batch = draw(st.integers(3, 24))
    places = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2).filter(lambda some: sum(some) < batch))
    sizes = [draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)) for _ in places]
    shared, first = [], others
    for some, count in zip(sizes, places, strict=True):
        shared.append(SharedRows(count / batch, classes_of(first, *some)))
        first += sum(some)
    return StepSampler(first, batch, draw(st.integers(0, 99)), shared), others, sizes


@given(made=shared_samplers())
def test_every_batch_holds_exactly_the_share(made):
    sampler, others, sizes = made
    for step in range(5):
        rows = sampler.indices(step)
        assert len(rows) == sampler.batch
        first = others
        for some, places in zip(sizes, sampler.places, strict=True):
            assert sum(first <= row < first + sum(some) for row in rows) == places
            first += sum(some)


@given(made=shared_samplers())
def test_rows_without_a_share_come_in_the_passes_and_the_order_that_they_have_alone(made):
    sampler, others, _ = made
    alone = StepSampler(others, sampler.other_places, sampler.seed)
    steps = alone.steps(2.0)
    assert sampler.steps(2.0) == steps and sampler.epochs(steps) == alone.epochs(steps)
    assert [visit for visit in visits_of(sampler, steps) if visit[1] < others] == visits_of(alone, steps)


@given(made=shared_samplers())
def test_in_a_pass_classes_come_equally_often_and_no_row_twice_before_its_class_is_used_up(made):
    sampler, others, sizes = made
    visits = visits_of(sampler, sampler.steps(3.0) + 1)
    first = others
    for source, some in zip(sampler.shared, sizes, strict=True):
        for epoch in range(3):
            seen = Counter(row for visited, row in visits if visited == epoch and first <= row < first + sum(some))
            by_class = [[seen[int(row)] for row in rows] for rows in source.classes]
            totals = [sum(counts) for counts in by_class]
            assert max(totals) - min(totals) <= 1
            assert all(max(counts) - min(counts) <= 1 for counts in by_class)
        first += sum(some)


@given(made=shared_samplers(), parts=st.integers(1, 4), step=st.integers(0, 500))
def test_with_shares_a_step_depends_on_nothing_before_it_and_on_no_number_of_processes(made, parts, step):
    sampler, _, _ = made
    fresh = StepSampler(sampler.num_samples, sampler.batch, sampler.seed, sampler.shared)
    visits_of(sampler, 3)
    assert fresh.visits(step) == sampler.visits(step)
    if sampler.batch % parts == 0:
        assert [visit for rank in range(parts) for visit in fresh.visits(step, rank, parts)] == sampler.visits(step)


@given(made=shared_samplers())
def test_epochs_of_a_share_end_where_those_of_the_other_rows_do(made):
    sampler, others, _ = made
    for step in range(12):
        visits = sampler.visits(step)
        its, theirs = ({epoch for epoch, row in visits if is_other == (row < others)} for is_other in (True, False))
        assert min(its) <= min(theirs) and max(theirs) <= max(its)


def test_every_pass_draws_other_pictures_of_a_class():
    sampler = StepSampler(70 + 1000, 8, 0, [SharedRows(0.125, classes_of(70, *[100] * 10))])
    visits = visits_of(sampler, sampler.steps(4.0))
    drawn = [{row for visited, row in visits if visited == epoch and row >= 70} for epoch in range(4)]
    assert [len(rows) for rows in drawn] == [10] * 4
    assert len(set.union(*drawn)) > 34
    other = StepSampler(70 + 1000, 8, 1, sampler.shared)
    assert {row for epoch, row in visits_of(other, 10) if row >= 70} != drawn[0]


def test_one_to_seven_of_imagenet_is_95_pictures_of_each_class_in_a_pass():
    """methods.md 6.5: 665,000 rows of instructions, 1000 classes; one of them has fewer pictures than that."""
    sizes = [1300] * 999 + [60]
    sampler = StepSampler(665_000 + sum(sizes), 64, 0, [SharedRows(0.125, classes_of(665_000, *sizes))])
    amount = sampler._first(0, 1)
    assert amount == 95_000
    rows = drawn(sampler.shared[0], 0, 0, 0, amount)
    counts = Counter(np.minimum((rows - 665_000) // 1300, 999).tolist())
    assert set(counts.values()) == {95}
    full = rows[rows < 665_000 + 999 * 1300]
    assert len(np.unique(full)) == len(full)
    few = Counter(rows[rows >= 665_000 + 999 * 1300].tolist())
    assert set(few.values()) == {1, 2} and len(few) == 60


def test_shared_rows_are_spread_over_micro_batches_and_processes():
    sampler = StepSampler(100, 64, 0, [SharedRows(0.125, classes_of(80, 20))])
    for step in range(3):
        rows = sampler.indices(step)
        assert all(sum(row >= 80 for row in rows[start : start + 8]) == 1 for start in range(0, 64, 8))


def test_two_sources_with_shares_draw_on_their_own():
    rows = classes_of(10, 50)
    shared = [SharedRows(0.25, rows), SharedRows(0.25, classes_of(60, 50))]
    sampler = StepSampler(110, 8, 0, shared)
    indices = [row for step in range(5) for row in sampler.indices(step)]
    first = [row - 10 for row in indices if 10 <= row < 60]
    second = [row - 60 for row in indices if row >= 60]
    assert len(first) == len(second) and first != second


def test_the_shared_order_is_the_one_of_every_other_machine():
    sampler = StepSampler(12, 4, 0, [SharedRows(0.25, classes_of(8, 2, 2))])
    assert [sampler.indices(step) for step in range(3)] == [[3, 7, 8, 4], [0, 2, 9, 6], [5, 1, 10, 0]]
