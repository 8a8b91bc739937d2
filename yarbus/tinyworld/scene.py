"""Scenes: one to four real handwritten digits, tinted, scaled, tilted, anywhere on a textured ground.

A scene is a description first (a frozen value, drawn by seed) and a picture second (``render``), so that
every answer is computed from the description and never from pixels. The handwriting is scikit-learn's
``load_digits``; a scan belongs to one split only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

IMAGE_PX = 48
CELL_EDGES_PX = (15, 24, 33)
"""Where one cell of ``locate`` ends and the next begins, both ways. A digit lies whole in the picture, so its centre
never comes near the rim: equal quarters would leave the outer cells almost empty."""
SCANS = {"train": (0, 1150), "validation": (1150, 1347), "test": (1347, 1797)}
"""First and one-past-last scan of each split."""
COLOURS = {
    "red": (222, 48, 44),
    "orange": (244, 140, 28),
    "yellow": (240, 228, 60),
    "green": (52, 176, 70),
    "cyan": (80, 220, 228),
    "blue": (58, 88, 236),
    "pink": (240, 96, 196),
    "white": (248, 248, 248),
}
LEANS = {"left": 20.0, "straight": 0.0, "right": -20.0}
"""Word -> degrees, counter-clockwise."""
SIZES = {"small": (13, 15), "medium": (16, 18), "large": (20, 22)}
"""Word -> smallest and largest side, pixels."""

Pattern = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(rows [48, 1], columns [1, 48], period) -> how much of the ground's contrast each pixel has, in [0, 1]."""
PATTERNS: dict[str, Pattern] = {
    "plain": lambda rows, columns, period: np.zeros((IMAGE_PX, IMAGE_PX)),
    "stripes": lambda rows, columns, period: (rows + columns) % period < period // 2,
    "checks": lambda rows, columns, period: (rows // (period // 2) + columns // (period // 2)) % 2,
    "dots": lambda rows, columns, period: (rows % period < 2) & (columns % period < 2),
}
GROUNDS = tuple(PATTERNS)


def cell_at(x: float, y: float) -> str:
    """The cell of a point: columns a to d from the left, rows 1 to 4 from the top."""
    column, row = (sum(edge <= centre for edge in CELL_EDGES_PX) for centre in (x, y))
    return f"{'abcd'[column]}{row + 1}"


@dataclass(frozen=True, kw_only=True)
class Digit:
    """One digit in a scene. ``x``, ``y`` are its centre and ``px`` its side, in pixels."""

    digit: int
    scan: int
    colour: str
    size: str
    lean: str
    x: float
    y: float
    px: int
    angle: float

    @property
    def cell(self) -> str:
        """The cell that holds the centre."""
        return cell_at(self.x, self.y)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows. Digits stand from left to right; no two share their digit or their colour."""

    name: str
    digits: tuple[Digit, ...]
    ground: str
    seed: tuple[int, ...]
    """Draws the ground's colours and noise."""


@cache
def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Handwriting as ``[scans, 8, 8]`` uint8 ink in 0..255, and its ``[scans]`` digits."""
    from sklearn.datasets import load_digits

    ink, digits = load_digits(return_X_y=True)
    return np.round(ink.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), digits.astype(int)


@cache
def scans_by_digit(split: str) -> tuple[np.ndarray, ...]:
    """The split's scan numbers, one array per digit."""
    first, end = SCANS[split]
    digits = load_scans()[1][first:end]
    return tuple(first + np.flatnonzero(digits == digit) for digit in range(10))


def draw_scene(
    split: str,
    seed: tuple[int, ...],
    *,
    num_digits: tuple[int, int] = (1, 4),
    sizes: tuple[str, ...] = tuple(SIZES),
) -> Scene:
    """The scene that ``seed`` means; the same on every machine.

    A digit that finds no room after forty tries is left out, so crowded draws hold fewer than asked.
    """
    rng = default_rng(seed)
    wanted = int(rng.integers(num_digits[0], num_digits[1] + 1))
    kinds, colours = rng.permutation(10)[:wanted], rng.permutation(len(COLOURS))[:wanted]
    placed: list[Digit] = []
    for kind, colour in zip(kinds, colours, strict=True):
        digit = _place(rng, split, int(kind), tuple(COLOURS)[colour], sizes, placed)
        if digit is not None:
            placed.append(digit)
    ground = GROUNDS[rng.integers(len(GROUNDS))]
    in_order = tuple(sorted(placed, key=lambda digit: digit.x))
    return Scene(name=f"{seed[-1]:06d}", digits=in_order, ground=ground, seed=seed)


def _place(
    rng: Generator, split: str, digit: int, colour: str, sizes: tuple[str, ...], placed: list[Digit]
) -> Digit | None:
    scans = scans_by_digit(split)[digit]
    scan = int(scans[rng.integers(len(scans))])
    size = sizes[rng.integers(len(sizes))]
    px = int(rng.integers(SIZES[size][0], SIZES[size][1] + 1))
    lean = tuple(LEANS)[rng.integers(len(LEANS))]
    angle = LEANS[lean] + rng.uniform(-4, 4)
    for x, y in rng.uniform(px / 2, IMAGE_PX - px / 2, (40, 2)).tolist():
        if _has_room(x, y, px, placed):
            return Digit(digit=digit, scan=scan, colour=colour, size=size, lean=lean, x=x, y=y, px=px, angle=angle)
    return None


def _has_room(x: float, y: float, px: int, placed: list[Digit]) -> bool:
    """Whether a digit here hides no other, keeps the order from left to right clear and sits inside its cell."""
    from_border = min(abs(centre - edge) for centre in (x, y) for edge in CELL_EDGES_PX)
    return from_border >= 1.5 and all(
        abs(x - other.x) >= 4 and max(abs(x - other.x), abs(y - other.y)) >= 0.35 * (px + other.px) for other in placed
    )


def near_the_middle(scene: Scene, spread: float) -> Scene:
    """The same digits with that fraction of their distance from the middle of the picture, and of their tilt."""
    middle = IMAGE_PX / 2
    digits = tuple(
        replace(
            digit,
            x=middle + spread * (digit.x - middle),
            y=middle + spread * (digit.y - middle),
            angle=spread * digit.angle,
        )
        for digit in scene.digits
    )
    return replace(scene, digits=digits)


def ink_of_scan(digit: Digit) -> np.ndarray:
    """The digit's handwriting, ``[8, 8]`` uint8."""
    return load_scans()[0][digit.scan]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the words of a scene look like."""

    colours: Mapping[str, tuple[int | float, int | float, int | float]]
    grounds: Mapping[str, Pattern]
    contrast: tuple[float, float] = (18.0, 34.0)
    """Least and most by which a ground's pattern is brighter than the ground."""
    ink: Callable[[Digit], np.ndarray] = ink_of_scan
    """Digit -> a square of ink in 0..255, which is scaled to the digit's side."""


USUAL = Look(colours=COLOURS, grounds=PATTERNS)
"""Of every scene that the base, the tasks and train know."""


def render(scene: Scene, look: Look = USUAL) -> np.ndarray:
    """The picture, ``[48, 48, 3]`` uint8."""
    rng = default_rng((*scene.seed, 1))
    canvas = _ground(look.grounds[scene.ground], look.contrast, rng)
    for digit in scene.digits:
        left, top, ink = _tilted(look.ink(digit), digit)
        bottom, right = min(top + ink.shape[0], IMAGE_PX), min(left + ink.shape[1], IMAGE_PX)
        first_row, first_column = max(0, -top), max(0, -left)
        ink = ink[first_row : bottom - top, first_column : right - left, None]
        patch = canvas[top + first_row : bottom, left + first_column : right]
        tint = np.asarray(look.colours[digit.colour]) + rng.uniform(-10, 10, 3)
        patch += ink * (tint - patch)
    canvas += rng.normal(0, 5, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _tilted(square: np.ndarray, digit: Digit) -> tuple[int, int, np.ndarray]:
    """Left and top pixel of the digit's tilted square, and how much ink covers each of its pixels, in [0, 1]."""
    side = int(digit.px * 1.3) + 2
    left, top = round(digit.x - side / 2), round(digit.y - side / 2)
    scale, angle, half = len(square) / digit.px, np.deg2rad(digit.angle), len(square) / 2
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = digit.x - left, digit.y - top
    to_square = (cos, -sin, half - cos * x + sin * y, sin, cos, half - sin * x - cos * y)
    tilted = Image.fromarray(square).transform(
        (side, side), Image.Transform.AFFINE, to_square, Image.Resampling.BILINEAR
    )
    return left, top, np.minimum(np.asarray(tilted, dtype=np.float64) / 200, 1)


def _ground(pattern: Pattern, contrast: tuple[float, float], rng: Generator) -> np.ndarray:
    """A dim textured ground, ``[48, 48, 3]`` in 0..255."""
    base, brighter = rng.uniform(25, 80, 3), rng.uniform(*contrast)
    period = int(rng.integers(5, 9))
    rows, columns = np.ogrid[:IMAGE_PX, :IMAGE_PX]
    rows, columns = rows + int(rng.integers(period)), columns + int(rng.integers(period))
    return base + brighter * np.asarray(pattern(rows, columns, period), dtype=np.float64)[..., None]
