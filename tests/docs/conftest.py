"""The place in which the documentation's code runs: a folder where every name that a page uses lies on disk.

Pages are written for real models. transformers prefers a folder to a hub id of the same spelling, so the folder holds
tiny random models *under the real names* and the code runs as printed, offline:

- ``llava-hf/llava-1.5-7b-hf``, ``Qwen/Qwen2.5-VL-3B-Instruct`` (tests/tiny.py), ``bert-base-uncased`` (width 16)
- ``google/siglip-so400m-patch14-384``, ``openai/clip-vit-large-patch14-336``: whole models with words
- ``lmsys/vicuna-7b-v1.5``: a language model of text alone
- ``photo.jpg``; ``data/train.json`` and ``data/test.json`` in LLaVA format, pictures in ``data/images``
- ``data/mixture.json``: rows of three tasks
- ``data/pets/train``, ``data/pets/test``: folders of two classes
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.models.parts import language_folder
from tests.tiny.encoders import clip_folder, siglip_folder

QUESTIONS = ("what digit is red ?", "where is the blue one ?", "which colour is the digit ?")
ANSWERS = ("one", "top left", "green")


def _write_model(folder: Path, family: str) -> None:
    model, processor = tiny.FAMILIES[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _write_data(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTIONS[number % 3]}"},
            {"from": "gpt", "value": ANSWERS[number % 3]},
        ]
        rows.append({"id": str(number), "image": f"images/{number}.png", "conversations": turns, "task": "look"})
    tasks = ("read", "locate", "colour")
    several = [{**rows[n % 8], "id": f"m{n}", "task": tasks[n % 8 % 3]} for n in range(32)]
    (folder / "mixture.json").write_text(json.dumps(several))
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(rows))
        for number, name in enumerate(("tabby_cat", "dog")):
            (folder / "pets" / split / name).mkdir(parents=True)
            Image.open(folder / "images" / f"{number}.png").save(folder / "pets" / split / name / "1.jpg")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, text_encoder: str) -> Path:
    """The folder, made once; a test works in a copy."""
    folder = tmp_path_factory.mktemp("world")
    _write_model(folder / "llava-hf" / "llava-1.5-7b-hf", "llava")
    _write_model(folder / "Qwen" / "Qwen2.5-VL-3B-Instruct", "qwen2_5_vl")
    (folder / "bert-base-uncased").symlink_to(text_encoder)
    siglip_folder(folder / "google" / "siglip-so400m-patch14-384")
    clip_folder(folder / "openai" / "clip-vit-large-patch14-336")
    language_folder(folder / "lmsys" / "vicuna-7b-v1.5")
    _write_data(folder / "data")
    Image.open(folder / "data" / "images" / "0.png").save(folder / "photo.jpg")
    return folder
