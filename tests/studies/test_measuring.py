"""Rows as batches for measurements: as training shows them, and with what the eyes are told beside them."""

from pathlib import Path

import pytest
import torch

from tests.analysis.seen import rows_about
from tests.models.test_question_path import METHODS, attached
from tests.studies.mixtures import write_mixture
from yarbus.core.recipe import load_recipe
from yarbus.data.collate import Collator
from yarbus.data.sample import Sample, Turn
from yarbus.studies.measuring import batches_of, numbered, picture_of, questions_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(write_mixture(tmp_path_factory.mktemp("experiment")))


def several(rows):
    """Rows of two questions each, of which one is drawn."""
    return [
        Sample(row.id, row.images, (*row.turns, *other.turns[:1], row.turns[1]), row.task)
        for row, other in zip(rows, reversed(rows), strict=True)
    ]


def without_tag(sample):
    turns = [Turn(turn.role, turn.words) if place else turn for place, turn in enumerate(sample.turns)]
    return Sample(sample.id, sample.images, tuple(turns), sample.task)


def test_batches_are_those_of_a_first_visit_and_the_questions_what_they_tell(recipe, text_encoder, pictures, tmp_path):
    _, processor = attached("llava", text_encoder, METHODS["text-dense"])
    rows = [without_tag(row) for row in several(rows_about(pictures[:3], tmp_path))]
    found = list(batches_of(rows, processor, recipe, 4))
    assert [name for batch in found for name in batch["sample_ids"]] == [row.id for row in rows]
    whole = Collator(processor, seed=recipe.seed)([(row, 0, place) for place, row in enumerate(rows[:4])])
    assert all(torch.equal(found[0][key], whole[key]) for key in whole if key != "sample_ids")

    told = questions_of(rows, recipe)
    assert any(told[row.id] != row.turns[0].words for row in rows)
    for batch in found:
        for name, tokens in zip(batch["sample_ids"], batch["context_input_ids"], strict=True):
            words = processor.context_tokenizer.decode(tokens, skip_special_tokens=True).split()
            assert words == told[name].split()


def test_rows_of_several_sources_get_ids_of_their_own():
    rows = [Sample("same", (), (Turn("user", "a"),)), Sample("same", (), (Turn("user", "b"),))]
    assert [row.id for row in numbered(rows)] == ["0:same", "1:same"]
    assert [row.turns for row in numbered(rows)] == [row.turns for row in rows]


def test_what_must_not_count_twice_is_the_scene_or_the_picture_or_the_row():
    turns = (Turn("user", "a"),)
    assert picture_of(Sample("r", (Path("p.png"),), turns, group="scene")) == "scene"
    assert picture_of(Sample("r", (Path("p.png"),), turns)) == "p.png"
    assert picture_of(Sample("r", (), turns)) == "r"
