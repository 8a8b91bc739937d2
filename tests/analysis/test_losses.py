"""Losses of answers against loops and the model's own, and paired gaps that claim no more than they know."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.models.batches import ask
from yarbus.analysis.losses import IGNORED, LEAST_GROUPS, answer_losses, paired_estimate, paired_gap, row_losses
from yarbus.report.intervals import paired_bootstrap


@given(rows=st.integers(1, 4), tokens=st.integers(2, 6), seed=st.integers(0, 99))
def test_answer_losses_equal_a_loop_over_rows_and_tokens(rows, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, tokens, 5, generator=generator)
    labels = torch.randint(0, 5, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < 0.5] = IGNORED
    for row, found in enumerate(answer_losses(logits, labels).tolist()):
        losses = [
            -torch.log_softmax(logits[row, place - 1], -1)[labels[row, place]].item()
            for place in range(1, tokens)
            if labels[row, place] != IGNORED
        ]
        if losses:
            assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4, abs=1e-6)
        else:
            assert np.isnan(found)


TURNS = [("what digit is red ?", "one"), ("where ?", "two three four"), ("which colour ?", "red")]


def labelled(processor, pictures, places):
    questions, answers = zip(*(TURNS[place] for place in places), strict=True)
    batch = ask(processor, [pictures[place] for place in places], list(questions), answers=list(answers))
    # The first word of a row follows padding or nothing, as its neighbours have it: it is not asked for.
    labels = batch["input_ids"].where(batch["attention_mask"].cumsum(1) > 1, IGNORED)
    return {**batch, "labels": labels, "sample_ids": [f"row-{place}" for place in places]}


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_loss_of_a_row_is_the_models_own_whatever_stands_beside_it(family, pictures):
    model, processor = tiny.FAMILIES[family]()
    model.train()
    found = row_losses(model, [labelled(processor, pictures, [0, 1]), labelled(processor, pictures, [2])])
    assert model.training and list(found) == ["row-0", "row-1", "row-2"]
    model.eval()
    for place, loss in enumerate(found.values()):
        alone = labelled(processor, pictures, [place])
        own = model(**{key: value for key, value in alone.items() if key != "sample_ids"}).loss.item()
        assert loss == pytest.approx(own, rel=1e-4)


def test_the_mode_is_restored_when_a_batch_fails(pictures):
    model, processor = tiny.llava()
    model.train()
    with pytest.raises(KeyError):
        row_losses(model, [{**ask(processor, pictures[:2], answers=["one", "two"]), "sample_ids": ["a"]}])
    assert model.training


GROUPS = {f"r{row}": f"picture{row // 2}" for row in range(20)}


def losses(shift: float, seed: int) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [{name: shift + 0.1 * random.standard_normal() for name in GROUPS} for _ in range(2)]


def test_a_gap_is_the_paired_bootstrap_of_rows_under_their_seeds():
    worse, better = losses(0.5, 0), losses(0.0, 1)
    found = paired_gap(worse, better, GROUPS)
    expected = paired_bootstrap(
        [one[name] for one in worse for name in GROUPS],
        [one[name] for one in better for name in GROUPS],
        [GROUPS[name] for _ in worse for name in GROUPS],
        seeds=[seed for seed in range(2) for _ in GROUPS],
    )
    assert found == {"mean": expected.mean, "low": expected.low, "high": expected.high}
    assert 0.3 < found["low"] < found["mean"] < found["high"] < 0.7


def test_rows_are_paired_by_id_and_those_of_one_side_alone_are_left_out():
    worse, better = losses(0.5, 0), losses(0.0, 1)
    shuffled = [dict(reversed(one.items())) | {"other": 99.0} for one in better]
    assert paired_gap(worse, shuffled, GROUPS) == paired_gap(worse, better, GROUPS)


@pytest.mark.parametrize("number", [1, LEAST_GROUPS - 1])
def test_few_pictures_give_a_mean_and_no_interval_that_would_claim_certainty(number):
    groups = {f"r{row}": f"picture{row % number}" for row in range(12)}
    sides = [[dict.fromkeys(groups, value)] * 2 for value in (1.0, 0.0)]
    assert paired_gap(*sides, groups) == {"mean": 1.0, "low": None, "high": None}


def test_nothing_to_pair_is_null():
    assert paired_gap([{"a": 1.0}], [{"b": 1.0}], {"a": "x", "b": "x"}) == {"mean": None, "low": None, "high": None}
    assert paired_estimate([], [], []) == {"mean": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="zip"):
        paired_gap([{"a": 1.0}], [], {"a": "x"})
