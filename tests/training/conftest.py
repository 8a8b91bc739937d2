"""A tiny Llava with dropout, thirteen conversations on disk, and a recipe of two stages over them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from yarbus.core.recipe import Recipe, load_recipe

NUM_SAMPLES = 13
QUESTIONS = ("what digit is there ?", "which colour is the digit ?", "where is the digit ?")
ANSWERS = ("one", "two three", "left top and right", "red", "bottom")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny.llava()
    model.config.text_config.attention_dropout = 0.2  # so that a lost generator state shows
    model.config.vision_config.attention_dropout = 0.2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(NUM_SAMPLES):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTIONS[number % 3]}"},
            {"from": "gpt", "value": ANSWERS[number % 5]},
            {"from": "human", "value": QUESTIONS[(number + 1) % 3]},
            {"from": "gpt", "value": ANSWERS[(number + 2) % 5]},
        ]
        rows.append({"id": f"row-{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


def stage(data: Path, train: dict, rates: dict, **settings) -> dict:
    return {
        "train": train,
        "data": [{"source": "llava", "path": str(data / "train.json"), "images": str(data)}],
        "learning_rate": rates,
        "batch": 4,
        "micro_batch": 2,
        "steps": 5,
        "log_every": 3,  # not a multiple of a checkpoint: an interval is cut by a resume
        "checkpoint_every": 2,
        "warmup_fraction": 0.2,
        **settings,
    }


@pytest.fixture
def settings(base: Path, text_encoder: str, data: Path) -> dict:
    """Two stages; an epoch is 3.25 steps, so that the second begins in the middle of a batch."""
    return {
        "model": {"base": str(base)},
        "question": {"text_encoder": text_encoder},
        "stages": {
            "align": stage(data, {"projector": "full"}, {"projector": 1e-2}),
            "instruct": stage(
                data,
                {
                    "vision": {"method": "covft", "num_experts": 2, "expert_jitter": 1e-2},
                    "projector": "full",
                    "language": "full",
                },
                {"vision_new": 1e-3, "router": 1e-4, "vision": 1e-3, "projector": 1e-3, "language": 1e-3},
                weight_decay=0.1,
                steps=7,
            ),
        },
        "seed": 3,
    }


@pytest.fixture
def recipe(settings: dict) -> Recipe:
    return load_recipe(settings)
