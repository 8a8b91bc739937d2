"""A whole tiny experiment on disk: base, text encoder, pictures with questions, and a recipe over them."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests import tiny

QUESTIONS = ("what digit is there ?", "which colour is the digit ?")
ANSWERS = ("one", "two", "red", "blue")


def write_experiment(folder: Path) -> Path:
    """Writes everything below ``folder`` and returns the recipe's path. Paths in the recipe are absolute."""
    model, processor = tiny.llava()
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    tiny.text_encoder_folder(folder / "encoder")
    pictures = folder / "pictures"
    pictures.mkdir()
    rows = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTIONS[number % 2]}"},
            {"from": "gpt", "value": ANSWERS[number % 4]},
        ]
        task = ("read", "colour")[number % 2]
        rows.append({"id": f"row-{number}", "image": f"{number}.png", "conversations": turns, "task": task})
    (pictures / "rows.json").write_text(json.dumps(rows))
    data = [{"source": "llava", "path": str(pictures / "rows.json"), "images": str(pictures)}]
    shared = {"data": data, "batch": 4, "steps": 2, "log_every": 1}
    rates = dict.fromkeys(("vision", "vision_new", "router", "projector", "language"), 0.001)
    covft = {"method": "covft", "num_experts": 2, "context_dim": 16, "expert_jitter": 1e-2}
    recipe = {
        "model": {"base": str(folder / "base")},
        "question": {"text_encoder": str(folder / "encoder")},
        "stages": {
            "align": {"train": {"projector": "full"}, "learning_rate": {"projector": 1e-2}, **shared},
            "instruct": {
                "train": {"vision": "full", "projector": "full", "language": "full"},
                "learning_rate": rates,
                **shared,
            },
        },
        "evaluation": [f"file:{pictures / 'rows.json'}"],
        "compare": {
            "variants": {
                "frozen": {"stages.instruct.train.vision": "frozen"},
                "covft": {"stages.instruct.train.vision": covft},
            }
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path
