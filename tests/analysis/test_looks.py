"""Rows, pictures and questions behind observed images, and intervals over their groups."""

from pathlib import Path

import numpy as np
import pytest
import torch

from yarbus.analysis.looks import array, estimate, looks_of
from yarbus.data.sample import Sample, Turn


def sample(name, pictures, *questions, group=None):
    turns = [turn for text in questions for turn in (Turn("user", text), Turn("assistant", "x"))]
    return Sample(name, tuple(map(Path, pictures)), tuple(turns), "read", group)


def test_a_row_with_several_pictures_is_looked_at_in_their_order_and_tiles_of_one_picture_are_that_picture():
    rows = {
        "two": sample("two", ["a.png", "b.png"], "<image><image> which ?"),
        "tiled": sample("tiled", ["c.png"], "<image>\nwhat ?", "and now ?", group="scene"),
        "unclear": sample("unclear", ["d.png", "e.png"], "<image><image>"),
    }
    ids = ["tiled", "two", "tiled", "two", "tiled", *["unclear"] * 4]
    looks = looks_of(ids, rows, dict.fromkeys(rows, "read"))
    assert [look.id for look in looks] == ids
    assert [str(look.picture) for look in looks] == ["c.png", "a.png", "c.png", "b.png", "c.png", *["None"] * 4]
    assert [look.group for look in looks[:4]] == ["scene", "a.png", "scene", "b.png"]
    assert looks[-1].group == "unclear" and looks[-1].question == ""
    assert looks[0].question == "what ?\nand now ?" and looks[1].question == "which ?"
    told = looks_of(["tiled"], rows, {"tiled": "read"}, {"tiled": "and now ?"})
    assert told[0].question == "and now ?"


def test_tensors_of_any_precision_become_double_arrays():
    found = array(torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16, requires_grad=True))
    assert found.dtype == np.float64 and found.tolist() == [[1.5, 2.0]]


def test_an_estimate_has_ends_only_where_groups_can_be_drawn():
    wide = estimate([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    assert wide == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert estimate([0.0, 1.0], ["a", "a"]) == {"mean": 0.5, "low": None, "high": None}
    assert estimate([], []) == {"mean": None, "low": None, "high": None}
    assert estimate(np.ones(3), ["a", "b", "c"])["high"] == pytest.approx(1.0)
