from hypothesis import given
from hypothesis import strategies as st

from yarbus.data.sampler import StepSampler

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
