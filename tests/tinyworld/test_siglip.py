import torch
from numpy.random import default_rng

from yarbus.tinyworld.scene import COLOURS, SCANS, draw_scene, near_the_middle
from yarbus.tinyworld.siglip import (
    HELD_OUT,
    KINDS,
    MAX_TOKENS,
    TEMPLATES,
    CaptionReader,
    SiglipSchedule,
    caption_tokenizer,
    draw_caption,
    encode,
    pair_loss,
    truth,
)
from yarbus.tinyworld.tower import tags_of

SCENES = [draw_scene("train", (5, number)) for number in range(40)]


def test_a_caption_is_true_of_its_own_scene_and_of_those_alone_that_have_what_it_says():
    drawn = [draw_caption(scene, default_rng(number)) for number, scene in enumerate(SCENES)]
    matrix = truth(SCENES, [claims for _, claims in drawn])
    tags = tags_of(SCENES)
    assert matrix.diagonal().all() and 0 < matrix.mean() < 0.5
    for column, (_, claims) in enumerate(drawn):
        for row in range(len(SCENES)):
            assert matrix[row, column] == float(all(tags[row, claim] for claim in claims))


def test_a_caption_says_what_it_claims():
    for number, scene in enumerate(SCENES):
        caption, claims = draw_caption(scene, default_rng(number))
        words = caption.split()
        for claim in claims:
            if claim < 10:
                assert str(claim) in words and not set(words) & set(COLOURS)
            elif claim < 18:
                assert tuple(COLOURS)[claim - 10] in words and "digit" in words
            else:
                digit, colour = divmod(claim - 18, len(COLOURS))
                assert f"{tuple(COLOURS)[colour]} {digit}" in caption


def test_every_caption_fits_its_length_and_ends_in_its_mark():
    tokenizer = caption_tokenizer()
    crowded = [scene for scene in SCENES if len(scene.digits) == 4]
    longest = [draw_caption(scene, default_rng(number))[0] for scene in crowded for number in range(20)]
    tokens = encode(tokenizer, tuple(longest))
    assert tokens.shape[1] == MAX_TOKENS and (tokens == tokenizer.eos_token_id).any(1).all()


def test_held_out_prompts_are_new_but_their_words_are_not():
    tokenizer = caption_tokenizer()
    assert not set(HELD_OUT) & set(TEMPLATES) and abs(sum(KINDS.values()) - 1) < 1e-9
    taught = {word for template in TEMPLATES for word in template.split()}
    assert {word for template in HELD_OUT for word in template.split()} <= taught
    assert tokenizer.unk_token_id not in tokenizer([one.format("7") for one in HELD_OUT])["input_ids"][0]


def test_the_loss_is_that_of_the_library_where_only_pairs_drawn_together_are_true():
    reader = CaptionReader(0, dim=16, num_blocks=1)
    captions, pixels = ["a red 7", "a blue 3"], torch.randn(2, 3, 48, 48)
    logits, _, _ = reader(pixels, captions)
    own = reader.model(input_ids=encode(reader.tokenizer, tuple(captions)), pixel_values=pixels, return_loss=True).loss
    ours = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.eye(2), reduction="sum") / 2
    torch.testing.assert_close(ours, own)


def test_a_step_is_a_function_of_its_number_and_shows_train_scans_only():
    reader, schedule = CaptionReader(0, dim=16, num_blocks=1), SiglipSchedule(steps=4, batch=3)
    for step in (0, 3):
        assert torch.equal(pair_loss(reader, schedule, step)[0], pair_loss(reader, schedule, step)[0])
    scenes = [draw_scene("train", (schedule.seed, 6, number)) for number in range(12)]
    assert all(digit.scan < SCANS["train"][1] for scene in scenes for digit in scene.digits)


def test_near_the_middle_is_the_middle_at_no_spread_and_the_scene_at_a_whole_one():
    scene = draw_scene("train", (1, 2), num_digits=(1, 1))
    (digit,) = near_the_middle(scene, 0.0).digits
    assert (digit.x, digit.y, digit.angle) == (24, 24, 0)
    assert near_the_middle(scene, 1.0) == scene
