"""Large single digits sorted into folders of classes, as pictures of one's own might lie on disk.

``classes/<split>/<digit>/<number>.png``: the pictures of ``tinyworld.classification`` under their labels, so that
``classes:tinyworld:classes/test`` is a benchmark. No scan is in two splits.
"""

from pathlib import Path

from PIL import Image

from yarbus.tinyworld.classification import large_digit
from yarbus.tinyworld.scene import render

NUM_PICTURES = {"train": 1000, "validation": 400, "test": 500}


def export(folder: Path, num_pictures: int | None = None) -> None:
    """Writes all splits below ``folder``; the same bytes every time."""
    for split, count in NUM_PICTURES.items():
        for number in range(count if num_pictures is None else num_pictures):
            scene = large_digit(split, number)
            place = folder / split / str(scene.digits[0].digit)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(scene)).save(place / f"{number:04d}.png", compress_level=1)
