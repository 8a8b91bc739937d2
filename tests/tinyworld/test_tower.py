import numpy as np
import torch

from yarbus.tinyworld.loop import train
from yarbus.tinyworld.scene import COLOURS, draw_scene, render
from yarbus.tinyworld.tower import NUM_TAGS, Tagger, TowerSchedule, digit_recall, normalise, tag_loss, tags_of

SCHEDULE = TowerSchedule(steps=4, batch=3, log_every=1, save_every=1, warmup_steps=1)


def test_tags_are_the_digits_the_colours_and_the_pairs_of_a_scene():
    scenes = [draw_scene("train", (0, number)) for number in range(20)]
    for scene, row in zip(scenes, tags_of(scenes), strict=True):
        names = {tag for tag in range(NUM_TAGS) if row[tag]}
        colours = tuple(COLOURS)
        wanted = {digit.digit for digit in scene.digits} | {10 + colours.index(d.colour) for d in scene.digits}
        wanted |= {18 + 8 * digit.digit + colours.index(digit.colour) for digit in scene.digits}
        assert names == wanted


def test_tags_carry_no_positions():
    tagger = Tagger(seed=0)
    states = torch.randn(2, 36, 96)
    scores = torch.logsumexp(tagger.tags(states), dim=1)
    torch.testing.assert_close(scores, torch.logsumexp(tagger.tags(states.flip(1)), dim=1))


def test_biases_start_at_zero_and_scores_are_finite():
    tagger = Tagger(seed=0)
    assert all((p == 0).all() for name, p in tagger.tower.named_parameters() if name.endswith("bias"))
    pictures = np.stack([render(draw_scene("train", (0, number))) for number in range(4)])
    assert tagger(normalise(pictures)).isfinite().all()


def test_recall_counts_the_present_digits_that_score_best():
    target = torch.zeros(1, NUM_TAGS)
    target[0, [3, 5]] = 1
    scores = torch.zeros(1, NUM_TAGS)
    scores[0, [3, 7]] = 1.0
    assert digit_recall(scores, target) == 0.5


def test_pretraining_that_was_interrupted_ends_with_the_same_tower(tmp_path):
    whole, stopped = Tagger(seed=0), Tagger(seed=0)
    assert train(whole, lambda step: tag_loss(whole, SCHEDULE, step), SCHEDULE, tmp_path / "whole")

    def loss(step: int):
        if step == 2:
            raise KeyboardInterrupt
        return tag_loss(stopped, SCHEDULE, step)

    try:
        train(stopped, loss, SCHEDULE, tmp_path / "stopped")
    except KeyboardInterrupt:
        stopped = Tagger(seed=1)
    assert train(stopped, lambda step: tag_loss(stopped, SCHEDULE, step), SCHEDULE, tmp_path / "stopped", resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, stopped.state_dict()[name]), name
