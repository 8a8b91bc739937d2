"""Where a planted gaze is drawn, on towers that keep the patches' order and on those that do not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.analysis.seen import ASKED, observed_on, planted, rows_of
from tests.models.batches import ask
from tests.models.test_question_path import METHODS, attached
from yarbus.analysis.gaze import (
    PAIRS_PER_PICTURE,
    gaze_record,
    grid_of,
    on_patches,
    pairs_on_one_picture,
    total_variation,
    window_order,
)
from yarbus.analysis.looks import looks_of
from yarbus.models.vlm import VLM

SIZES = {"llava": [(28, 28)], "qwen2_5_vl": [(28, 28), (42, 56), (56, 42), (14, 70), (56, 56)]}
"""(width, height) of pictures; Qwen keeps them as they are."""
CASES = [(family, size) for family, sizes in SIZES.items() for size in sizes]


def entering_tokens(model, batch):
    """What enters the first block, without its prefix tokens: [patches, dim]."""
    vlm, found = VLM.of(model), []

    def look(block, args, kwargs):
        found.append(args[0] if args else kwargs["hidden_states"])

    hook = vlm.blocks()[0].register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return found[0].reshape(-1, found[0].shape[-1])[vlm.tower.prefix_tokens :]


@pytest.mark.parametrize(("family", "size"), CASES)
def test_each_patch_of_a_picture_is_the_token_that_the_grid_says(family, size, text_encoder, tmp_path):
    """One patch at a time is painted; the token that changes on the way into the first block is its own."""
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    blank = Image.new("RGB", size)
    blank.save(tmp_path / "blank.png")
    batch = ask(processor, [blank], ["what digit is red ?"])
    before = entering_tokens(model, batch)
    grid = grid_of(VLM.of(model), processor, tmp_path / "blank.png", len(before))
    side = {"llava": 14, "qwen2_5_vl": 7}[family]
    assert (grid.width, grid.height) == (size[0] // side, size[1] // side)
    order = np.arange(len(before)) if grid.order is None else grid.order
    assert sorted(order) == list(range(len(before)))
    for patch in range(len(before)):
        row, column = divmod(patch, grid.width)
        painted = blank.copy()
        painted.paste((255, 255, 255), (column * side, row * side, (column + 1) * side, (row + 1) * side))
        after = entering_tokens(model, ask(processor, [painted], ["what digit is red ?"]))
        changed = (after - before).abs().amax(dim=1).nonzero().flatten().tolist()
        assert changed == [order[patch]]


def test_windows_of_two_by_two_units_of_one_patch_lie_as_written_out():
    tokens_in_the_picture = np.array([[0, 1, 4, 5, 8], [2, 3, 6, 7, 9], [10, 11, 12, 13, 14]])
    assert window_order(3, 5, merge=1, window=2).reshape(3, 5).tolist() == tokens_in_the_picture.tolist()
    assert window_order(3, 5, merge=1, window=5).tolist() == list(range(15))


def test_a_grid_that_does_not_fit_the_patches_is_not_known(text_encoder, tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    for family, number in (("llava", 4), ("qwen2_5_vl", 16)):
        model, processor = attached(family, text_encoder, METHODS["cve-dense"])
        assert grid_of(VLM.of(model), processor, tmp_path / "a.png", number) is not None
        assert grid_of(VLM.of(model), processor, tmp_path / "a.png", number + 1) is None
    assert grid_of(VLM.of(model), processor, None, 16) is None


def test_the_prefix_is_set_apart_and_the_patches_share_sums_to_one():
    gaze = np.array([[0.5, 0.1], [0.5, 0.3], [0.0, 0.6]])
    looked, prefix = on_patches(gaze, 1)
    np.testing.assert_allclose(looked, [0.4 / 0.7, 0.3 / 0.7])
    assert prefix == pytest.approx(0.3)
    whole, none = on_patches(gaze, 0)
    np.testing.assert_allclose(whole, [0.3, 0.4, 0.3])
    assert none == 0.0
    blind, everything = on_patches(np.array([[1.0], [0.0], [0.0]]), 1)
    assert blind.tolist() == [0.5, 0.5] and everything == 1.0


def test_total_variation_is_the_share_of_the_looking_that_has_to_move():
    a, b = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    assert total_variation(a, b) == 0.5
    assert total_variation(a, a) == 0.0
    assert total_variation(np.eye(3)[0], np.eye(3)[1]) == 1.0


def looks_at(tasks, questions, pictures):
    rows, labels = rows_of(tasks, questions=questions, pictures=pictures)
    return looks_of(list(rows), rows, labels)


def test_pairs_share_a_picture_and_differ_in_the_question():
    looks = looks_at("aabba", ["p", "q", "r", "p", "p"], ["1", "1", "1", "2", "1"])
    found = {(pair.first, pair.second, pair.is_same_task) for pair in pairs_on_one_picture(looks, [4] * 5)}
    assert found == {(0, 1, True), (0, 2, False), (1, 2, False), (1, 4, True), (2, 4, False)}
    assert len(pairs_on_one_picture(looks, [4, 9, 4, 4, 4])) == 2, "as many tiles or another resolution: no pair"
    many = looks_at(["a"] * 30, [str(place) for place in range(30)], ["1"] * 30)
    assert len(pairs_on_one_picture(many, [4] * 30)) == PAIRS_PER_PICTURE < 30 * 29 // 2


def one_hot(token, tokens, heads=2):
    values = np.zeros((tokens, heads))
    values[token] = 1.0
    return values


@pytest.mark.parametrize(("family", "size"), CASES)
def test_a_planted_gaze_is_drawn_on_the_patch_that_it_looks_at(family, size, text_encoder, tmp_path):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    picture = tmp_path / "a.png"
    Image.new("RGB", size).save(picture)
    side = {"llava": 14, "qwen2_5_vl": 7}[family]
    width, height = size[0] // side, size[1] // side
    prefix = VLM.of(model).tower.prefix_tokens
    grid = grid_of(VLM.of(model), processor, picture, width * height)
    wanted = [width * height - 2, 1]  # patches, row by row
    tokens = [patch if grid.order is None else int(grid.order[patch]) for patch in wanted]
    gaze = [one_hot(prefix + token, prefix + width * height) for token in tokens]
    rows, labels = rows_of(["read", "locate"], questions=["p", "q"], pictures=[picture, picture])
    record = gaze_record(model, processor, planted(np.zeros((2, 3)), gaze=gaze), rows, labels)
    assert record["grid"] == [height, width] == record["samples"][0]["grid"]
    (shown,) = record["samples"]
    assert [np.argmax(part["gaze"]) for part in (shown, shown["other"])] == wanted
    assert shown["distance"] == 1.0 and record["distance"]["mean"] == 1.0
    assert record["entropy"]["mean"] == 0.0 and record["max_entropy"] == pytest.approx(np.log(width * height))


def test_the_same_task_is_the_control_beside_other_tasks(text_encoder, tmp_path):
    """Planted: every task looks at its own patch, whatever its question."""
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    pictures = [tmp_path / f"{number}.png" for number in range(30)]
    tasks, paths, gaze = [], [], []
    for picture in pictures:
        for place, task in enumerate(["read", "read", "locate", "locate"]):
            tasks.append(task)
            paths.append(picture)
            gaze.append(0.5 * one_hot(0, 5) + 0.5 * one_hot(1 + place // 2, 5))
    rows, labels = rows_of(tasks, pictures=paths)
    record = gaze_record(model, processor, planted(np.zeros((120, 3)), gaze=gaze), rows, labels, shown=5)
    assert record["distance_same_task"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert record["distance_other_task"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert record["distance"]["mean"] == pytest.approx(4 / 6)
    assert record["num_pairs"] == 30 * 6
    assert record["prefix"]["mean"] == pytest.approx(0.5)
    assert len(record["samples"]) == 5 and len({one["image"] for one in record["samples"]}) == 5
    for shown in record["samples"]:
        assert {shown["task"], shown["other"]["task"]} == {"read", "locate"}
        assert shown["prefix"] == 0.5 and sum(shown["gaze"]) == 1.0
    assert record["reasons"] == {}


def test_pairs_shown_go_round_the_tasks(text_encoder):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    tasks = ["a", "b", "c", "d"] * 12
    rows, labels = rows_of(tasks, pictures=[f"{place // 4}.png" for place in range(48)])
    seen = planted(np.zeros((48, 3)), gaze=[np.full((5, 2), 0.2)] * 48)
    shown = gaze_record(model, processor, seen, rows, labels, shown=6)["samples"]
    times = {task: sum(task in (one["task"], one["other"]["task"]) for one in shown) for task in "abcd"}
    assert set(times.values()) == {3}


def test_without_shared_pictures_there_is_no_pair_and_the_record_says_so(text_encoder):
    model, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    seen = planted(np.zeros((4, 3)), gaze=[np.full((5, 2), 0.2)] * 4)
    record = gaze_record(model, processor, seen, *rows_of("abab"))
    assert record["samples"] == [] and record["grid"] is None
    assert record["distance"] == {"mean": None, "low": None, "high": None}
    assert list(record["reasons"]) == ["distance"]
    assert record["entropy"]["mean"] == pytest.approx(np.log(4)) == record["max_entropy"]
    assert json.dumps(record, allow_nan=False)


def test_a_context_of_text_alone_has_no_gaze(text_encoder, pictures, tmp_path):
    model, processor, seen, rows, labels = observed_on("llava", text_encoder, pictures[:2], tmp_path, "text-dense")
    assert gaze_record(model, processor, seen, rows, labels) is None


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_real_model_of_every_family_gives_a_whole_record(family, text_encoder, pictures, tmp_path):
    shown = [pictures[0], pictures[1].resize((42, 56)), pictures[2]]  # one of another size
    model, processor, seen, rows, labels = observed_on(family, text_encoder, shown, tmp_path)
    record = gaze_record(model, processor, seen, rows, labels)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert gaze_record(model, processor, seen, rows, labels) == record
    assert record["block"] == max(seen.gaze)
    grids = [one["grid"] for one in record["samples"]]
    if family == "llava":
        assert record["grid"] == [2, 2] and grids == [[2, 2]] * 3 and record["prefix"]["mean"] > 0
    else:
        assert record["grid"] is None and sorted(grids) == [[4, 4], [4, 4], [8, 6]]
        assert record["reasons"] == {"grid": "pictures have grids of their own"}
        assert record["prefix"]["mean"] == 0.0
    num_questions = sum(map(len, ASKED.values()))
    assert record["num_pairs"] == 3 * num_questions * (num_questions - 1) // 2
    places = {name: place for place, name in enumerate(seen.sample_ids)}
    skip = VLM.of(model).tower.prefix_tokens
    distances = []
    for first in rows.values():
        for second in rows.values():
            if first.images == second.images and first.id < second.id:
                a, b = (seen.gaze[record["block"]][places[row.id]].mean(dim=1)[skip:] for row in (first, second))
                distances.append(float((a / a.sum() - b / b.sum()).abs().sum() / 2))
    assert record["distance"]["mean"] == pytest.approx(np.mean(distances), rel=1e-4)
    assert 0 < record["distance"]["low"] <= record["distance"]["mean"] <= record["distance"]["high"] < 1
    for one in record["samples"]:
        assert sum(one["gaze"]) == pytest.approx(1.0, abs=1e-3) == sum(one["other"]["gaze"])
        height, width = one["grid"]
        assert len(one["gaze"]) == height * width == len(one["other"]["gaze"])
        assert rows[one["id"]].images == rows[one["other"]["id"]].images == (Path(one["image"]),)
        assert one["task"] != one["other"]["task"] and one["question"] != one["other"]["question"]
        assert 0 <= one["distance"] <= 1
    assert record["entropy"]["mean"] < record["max_entropy"]
