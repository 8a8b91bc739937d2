"""Pictures of a kind that no training scene resembles, asked the open-world question of ``tinyworld.classification``.

Each departs from the large handwritten digits of train in one way, which is its row's task:

``tint``    a colour that has no name in this world
``ground``  a pattern that no scene has, with more contrast
``scale``   a digit larger than any
``font``    a printed digit, middle-sized or large, in place of handwriting

Validation and test share no scan, tint, pattern, size or typeface, so what is chosen on one is not fitted to the
other. ``validation|test/classify-ood.json`` is made from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from yarbus.tinyworld.classification import OPEN
from yarbus.tinyworld.export import WORLD_SEED, Row, conversation, write_picture, write_rows
from yarbus.tinyworld.fonts import FONTS, glyph
from yarbus.tinyworld.scene import IMAGE_PX, USUAL, Look, Pattern, Scene, draw_scene, render, scans_by_digit
from yarbus.tinyworld.tasks import pose

KINDS = ("tint", "ground", "scale", "font")
SEEDS = {"train": 30, "validation": 40, "test": 50}
"""Each kind counts on from there."""
NUM_PICTURES = {"validation": 150, "test": 250}
"""Of each kind."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is strange about a split's pictures."""

    tints: Mapping[str, tuple[int, int, int]]
    grounds: Mapping[str, Pattern]
    scale: tuple[int, int]
    """Smallest and largest side, pixels; the usual digits end at 22."""
    fonts: tuple[str, ...]


def _bricks(rows: np.ndarray, columns: np.ndarray, period: int) -> np.ndarray:
    return (rows % period == 0) | ((columns + period * (rows // period % 2)) % (2 * period) == 0)


def _bars(rows: np.ndarray, columns: np.ndarray, period: int) -> np.ndarray:
    return np.broadcast_to(columns % period < period // 2, (IMAGE_PX, IMAGE_PX))


def _rings(rows: np.ndarray, columns: np.ndarray, period: int) -> np.ndarray:
    return np.hypot(rows - IMAGE_PX / 2, columns - IMAGE_PX / 2) % period < period / 2


def _zigzag(rows: np.ndarray, columns: np.ndarray, period: int) -> np.ndarray:
    return (rows + abs(columns % (2 * period) - period)) % period < period // 2


CONTRAST = (40.0, 60.0)
"""Of the strange grounds; the usual ones end at 34."""
STYLES = {
    "validation": Style(
        tints={"teal": (30, 170, 150), "grey": (165, 165, 165), "gold": (208, 176, 96)},
        grounds={"bricks": _bricks, "bars": _bars},
        scale=(26, 32),
        fonts=FONTS["validation"],
    ),
    "test": Style(
        tints={"purple": (150, 72, 220), "brown": (176, 112, 52), "lime": (160, 250, 40)},
        grounds={"rings": _rings, "zigzag": _zigzag},
        scale=(33, 40),
        fonts=FONTS["test"],
    ),
}


def shifted(kind: str, number: int, *, style: str, scans: str | None = None) -> Scene:
    """The strange picture of that kind and number, in a split's style; with the scans of ``scans``, else of that split.

    Where it is printed, a digit's ``scan`` is the number of its font.
    """
    split, strange = scans or style, STYLES[style]
    seed = (WORLD_SEED, SEEDS[split] + KINDS.index(kind), number)
    sizes = ("medium", "large") if kind == "font" else ("large",)
    scene = draw_scene(split, seed, num_digits=(1, 1), sizes=sizes)
    (digit,) = scene.digits
    rng = default_rng((*seed, 3))
    turn, label = divmod(number, 10)
    own = scans_by_digit(split)[label]
    # Kinds begin at different scans, so that together they show as many as there are.
    scan = int(own[(turn + 11 * KINDS.index(kind)) % len(own)])
    ground = scene.ground
    if kind == "tint":
        digit = replace(digit, colour=tuple(strange.tints)[rng.integers(len(strange.tints))])
    elif kind == "ground":
        ground = tuple(strange.grounds)[rng.integers(len(strange.grounds))]
    elif kind == "scale":
        px = int(rng.integers(strange.scale[0], strange.scale[1] + 1))
        x, y = (min(max(centre, px / 2), IMAGE_PX - px / 2) for centre in (digit.x, digit.y))
        digit = replace(digit, px=px, x=x, y=y, size="huge")
    else:
        scan = turn % len(strange.fonts)
    name = f"classify-{kind}-{scene.name}"
    return replace(scene, name=name, ground=ground, digits=(replace(digit, digit=label, scan=scan),))


def look_of(kind: str, style: str) -> Look:
    """How pictures of that kind are rendered."""
    strange = STYLES[style]
    if kind == "tint":
        return replace(USUAL, colours=strange.tints)
    if kind == "ground":
        return replace(USUAL, grounds=strange.grounds, contrast=CONTRAST)
    if kind == "font":
        return replace(USUAL, ink=lambda digit: glyph(strange.fonts[digit.scan], digit.digit))
    return USUAL


def picture(kind: str, number: int, *, style: str, scans: str | None = None) -> np.ndarray:
    """``[48, 48, 3]`` uint8."""
    return render(shifted(kind, number, style=style, scans=scans), look_of(kind, style))


def export(split: str, folder: Path, num_pictures: int | None = None) -> None:
    """Writes the split's ``classify-ood.json`` and its pictures; the same bytes every time."""
    rows: list[Row] = []
    for kind in KINDS:
        for number in range(NUM_PICTURES[split] if num_pictures is None else num_pictures):
            scene = shifted(kind, number, style=split)
            write_picture(folder, scene, render(scene, look_of(kind, split)))
            (digit,) = scene.digits
            question = replace(pose(OPEN, scene, default_rng((*scene.seed, 2)), held_out=True), task=kind)
            # Pictures of one scan, or of one glyph, are not independent: resampling keeps them together.
            shown = f"{STYLES[split].fonts[digit.scan]}-{digit.digit}" if kind == "font" else f"scan-{digit.scan}"
            rows.append(conversation(split, scene, question) | {"group": shown})
    write_rows(folder / "classify-ood.json", rows)
