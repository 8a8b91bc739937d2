from dataclasses import replace

import numpy as np
import pytest
import torch

from yarbus.tinyworld.dino import (
    DinoSchedule,
    Onlooker,
    drawings,
    drawn_again,
    hide,
    look_loss,
    pale,
    pixels_of_patches,
)
from yarbus.tinyworld.scene import COLOURS, SIZES, USUAL, draw_scene, render

SCHEDULE = DinoSchedule(steps=20, batch=6)


def test_another_drawing_shows_the_same_scans_elsewhere():
    for number in range(20):
        scene = draw_scene("train", (3, number))
        again = drawn_again(scene, (4, number), tuple(SIZES))
        assert {one.scan for one in again.digits} <= {one.scan for one in scene.digits} and again.digits
        if len(scene.digits) == 1:
            (first,), (second,) = scene.digits, again.digits
            assert (first.digit, first.scan) == (second.digit, second.scan) and first.x != second.x


def test_as_many_patches_are_hidden_in_each_of_a_half_and_others_at_every_step():
    hidden = hide(SCHEDULE, 8, 0)
    assert sorted(hidden.sum(1).tolist()) == [0] * 4 + [11] * 4 and not torch.equal(hidden, hide(SCHEDULE, 8, 1))


def test_what_is_hidden_does_not_give_away_which_drawings_belong_together():
    """Otherwise pairs could be told by who has hidden patches."""
    alike = [(hide(SCHEDULE, 40, step).any(1)[:20] == hide(SCHEDULE, 40, step).any(1)[20:]) for step in range(100)]
    assert abs(torch.stack(alike).float().mean().item() - 19 / 39) < 0.05


def test_patches_are_taken_in_the_order_in_which_the_model_sees_them():
    pictures = torch.zeros(1, 3, 48, 48)
    pictures[0, :, 8:16, 16:24] = 1
    assert pixels_of_patches(pictures)[0].sum(1).nonzero().flatten().tolist() == [1 * 6 + 2]


def test_hidden_pixels_do_not_reach_the_model():
    onlooker = Onlooker(0, dim=16, num_blocks=1).eval()
    pictures, hidden = torch.randn(2, 3, 48, 48), torch.zeros(2, 36, dtype=torch.bool)
    hidden[:, 7] = True
    changed = pictures.clone()
    changed[:, :, 8:16, 8:16] = 5.0
    assert torch.equal(onlooker(pictures, hidden)[0], onlooker(changed, hidden)[0])
    assert not torch.equal(onlooker(pictures, ~hidden)[0], onlooker(changed, ~hidden)[0])


def test_pictures_begin_white_on_plain_and_end_as_usual():
    scene = draw_scene("train", (1, 4), num_digits=(1, 1))
    assert np.array_equal(render(scene, pale(1.0)), render(scene))
    assert set(pale(0.0).colours.values()) == {tuple(map(float, COLOURS["white"]))} and pale(1.0).colours.keys() == (
        USUAL.colours.keys()
    )


def test_a_step_is_a_function_of_its_number():
    first, second = (Onlooker(0, dim=16, num_blocks=1) for _ in range(2))
    assert torch.equal(drawings(SCHEDULE, 15, 0.5), drawings(SCHEDULE, 15, 0.5))
    assert torch.equal(look_loss(first, SCHEDULE, 3)[0], look_loss(second, SCHEDULE, 3)[0])


def test_drawings_differ_more_when_they_are_found_and_less_when_not(monkeypatch):
    onlooker = Onlooker(0, dim=16, num_blocks=1)
    onlooker.spread.fill_(0.5)
    look_loss(onlooker, replace(SCHEDULE, found_enough=0.0), 0)
    assert float(onlooker.spread) == pytest.approx(0.504)
    look_loss(onlooker, replace(SCHEDULE, found_enough=1.1), 0)
    assert float(onlooker.spread) == pytest.approx(0.502)
    onlooker.spread.fill_(1.0)
    look_loss(onlooker, replace(SCHEDULE, found_enough=1.1), 0)
    assert float(onlooker.spread) == 1.0
    assert "spread" in onlooker.state_dict()  # or a resumed run would begin anew


def test_a_model_that_knows_its_scenes_finds_them_again(monkeypatch):
    """Drawings that are one picture twice are found; strangers are not."""
    from yarbus.tinyworld import dino

    onlooker = Onlooker(0, dim=16, num_blocks=1)
    monkeypatch.setattr(dino, "hide", lambda schedule, count, step: torch.zeros(count, 36, dtype=torch.bool))
    pictures = torch.randn(6, 3, 48, 48)
    monkeypatch.setattr(dino, "drawings", lambda schedule, step, spread: torch.cat([pictures, pictures]))
    monkeypatch.setattr(dino.F, "mse_loss", lambda guessed, wanted: guessed.sum() * 0)
    assert look_loss(onlooker, SCHEDULE, 0)[1]["found_again"] == 1.0
    monkeypatch.setattr(dino, "drawings", lambda schedule, step, spread: torch.cat([pictures, pictures.roll(1, 0)]))
    assert look_loss(onlooker, SCHEDULE, 0)[1]["found_again"] == 0.0
