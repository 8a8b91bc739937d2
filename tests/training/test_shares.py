"""A stage whose batches hold a share of class pictures: what it sees, and that a resume is exact."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.runs import StopAt, Stopped, final_hash
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_jsonl
from yarbus.data.mixture import mix
from yarbus.data.sampler import StepSampler
from yarbus.training.planning import plan_recipe
from yarbus.training.stages import train


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def mixed(settings, pets):
    """One stage; one row in four of each batch is a picture to classify."""
    stage = settings["stages"]["align"]
    entry = {"source": "classes", "path": str(pets), "share": 0.25, "task": "classification"}
    align = {**stage, "data": [*stage["data"], entry], "steps": None, "epochs": 2.0, "checkpoint_every": 2}
    return load_recipe({**settings, "stages": {"align": align}})


class Seen:
    """A reader that remembers each update's sample ids."""

    def __init__(self) -> None:
        self.ids: dict[int, list[str]] = {}

    def __call__(self, step: int, model, sample_ids: list[str]) -> None:
        self.ids[step] = sample_ids


def test_each_update_sees_what_the_sampler_says(mixed, tmp_path):
    seen = Seen()
    train(mixed, tmp_path / "run", progress=False, readers=[seen])
    mixture = mix(mixed.stages["align"].used_data)
    sampler = StepSampler(len(mixture.samples), 4, mixed.seed, mixture.shared)
    assert sampler.steps(2.0) == 9 == max(seen.ids)  # 13 other rows, 3 in each batch
    for step, ids in seen.ids.items():
        assert ids == [mixture.samples[row].id for row in sampler.indices(step - 1)]
        assert sum(".png" in name for name in ids) == 1
    lines = read_jsonl(tmp_path / "run" / "stages" / "align" / "metrics.jsonl")
    assert lines[-1]["epoch"] == pytest.approx(9 * 3 / 13)


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_with_shares_stopped_at_any_step_ends_with_the_same_weights(mixed, tmp_path, step):
    train(mixed, tmp_path / "whole", progress=False)
    with pytest.raises(Stopped):
        train(mixed, tmp_path / "run", progress=False, readers=[StopAt(1, step)])
    train(mixed, tmp_path / "run", progress=False)
    assert final_hash(tmp_path / "run") == final_hash(tmp_path / "whole")


def test_other_wordings_are_other_data(mixed, tmp_path, pets):
    with pytest.raises(Stopped):
        train(mixed, tmp_path / "run", progress=False, readers=[StopAt(1, 4)])
    (pets / "classes.json").write_text(json.dumps({"one": "one", "two": "deux", "three": "three"}))
    try:
        with pytest.raises(DataError, match="the data changed since this run began"):
            train(mixed, tmp_path / "run", progress=False)
    finally:
        (pets / "classes.json").unlink()


def test_a_plan_needs_no_pictures(mixed):
    assert [one.stage for one in plan_recipe(mixed)] == ["align"]


def test_a_benchmark_that_is_not_there_is_told_before_training(mixed, tmp_path):
    for name, error in (
        ("classes:none", DataError),
        ("dataset:none#split=x", DataError),
        ("classes:x#clsed=2", ConfigError),
    ):
        wrong = load_recipe(mixed.resolved(), {"evaluation": [name]})
        with pytest.raises(error):
            train(wrong, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    train_on = load_recipe(mixed.resolved(), {"stages.align.data.1.split": "train"})
    with pytest.raises(ConfigError, match="stage 'align': source 'classes' takes no 'split'"):
        train(train_on, tmp_path / "run", progress=False)
