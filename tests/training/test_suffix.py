"""A PaliGemma through a recipe: trained, evaluated and loaded again, with the answer as a suffix."""

import json

import pytest
import torch

from tests import tiny
from tests.training.conftest import ANSWERS, QUESTIONS, stage
from yarbus.core.errors import DataError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_jsonl
from yarbus.data.collate import prompt_batch
from yarbus.data.sources import SOURCES
from yarbus.evaluation.runner import evaluate
from yarbus.training.planning import plan_recipe
from yarbus.training.run import load_run
from yarbus.training.stages import train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paligemma")
    for part in tiny.EVERY["paligemma"]():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(data, tmp_path_factory):
    """One question a picture; five pictures have five answers."""
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    told = [
        {
            "id": str(number),
            "image": str(data / f"{number}.png"),
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTIONS[number % 3]}"},
                {"from": "gpt", "value": ANSWERS[number]},
            ],
        }
        for number in range(5)
    ]
    path.write_text(json.dumps(told))
    return path


def recipe_of(base, text_encoder, path, **settings):
    covft = {"method": "covft", "num_experts": 2, "context_dim": 16, "expert_jitter": 1e-2}
    rates = dict.fromkeys(("vision_new", "router", "vision", "projector", "language"), 1e-2)
    one = stage(path.parent, {"projector": "full"}, {"projector": 1e-2}, steps=2)
    two = stage(path.parent, {"vision": covft, "projector": "full", "language": "full"}, rates, batch=5, micro_batch=5)
    for section in (one, two):
        section["data"] = [{"source": "llava", "path": str(path)}]
    return load_recipe(
        {
            "model": {"base": str(base)},
            "question": {"text_encoder": text_encoder},
            "stages": {"align": one, "instruct": {**two, **settings}},
        }
    )


@pytest.fixture(scope="module")
def run(base, text_encoder, rows, tmp_path_factory):
    recipe = recipe_of(base, text_encoder, rows, steps=40, log_every=1, checkpoint_every=None, warmup_fraction=0.1)
    return train(recipe, tmp_path_factory.mktemp("runs") / "run", progress=False)


def test_it_learns_to_say_its_answers_and_to_stop(run, rows):
    losses = [line["loss"] for line in read_jsonl(run / "stages" / "instruct" / "metrics.jsonl")]
    assert losses[-1] < 0.05 * losses[0]
    scores = evaluate(*load_run(run), [f"file:{rows}"], run, progress=False)[f"file:{rows}"]
    assert scores["num_errors"] == 0
    replies = read_jsonl(next((run / "evaluation").rglob("replies.jsonl")))
    assert {row["sample_id"]: row["reply"] for row in replies} == {str(n): ANSWERS[n] for n in range(5)}


def test_it_loads_again_to_equal_logits(run, rows):
    samples = SOURCES["llava"](rows)
    found = []
    for _ in range(2):
        model, processor = load_run(run)
        with torch.no_grad():
            found.append(model(**prompt_batch(processor, samples)).logits)
    assert torch.equal(*found)


def test_rows_of_several_turns_stop_the_run_by_name(base, text_encoder, data, tmp_path):
    with pytest.raises(DataError, match=r"a row of 4 turns.*write one row for each question"):
        train(recipe_of(base, text_encoder, data / "train.json"), tmp_path / "run", progress=False)


def test_a_plan_needs_no_weights(base, text_encoder, rows):
    assert [one.stage for one in plan_recipe(recipe_of(base, text_encoder, rows))] == ["align", "instruct"]
