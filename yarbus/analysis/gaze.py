"""Where the eyes look for a question, and for another question on the same picture.

The gaze is the attention of the CVE's one query, the question, on the tokens of an image (Eq. 8), averaged over its
heads. Two questions on one picture are compared by the total variation distance of their gazes: the share of the
looking that would have to move. 0 is one gaze for both, whatever is asked; 1 is no patch in common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr
from torch import nn

from yarbus.analysis.looks import Look, Record, array, estimate, looks_of
from yarbus.data.image import open_image
from yarbus.data.sample import Sample
from yarbus.data.stored import Picture
from yarbus.models.families.llava import PICTURE_PX
from yarbus.models.observe import Observed
from yarbus.models.vlm import VLM

SHOWN = 24
PAIRS_PER_PICTURE = 60
"""A picture with more pairs of questions than this counts with so many random ones."""
DIGITS = 5


@dataclass(frozen=True)
class Grid:
    """How an image's patches lie."""

    height: int
    width: int
    order: Int[np.ndarray, " patches"] | None = None
    """Token, counted without prefix tokens, of each patch row by row; None where tokens have that order already."""


def window_order(height: int, width: int, merge: int, window: int) -> Int[np.ndarray, " patches"]:
    """Token of each patch, row by row, in a tower that sorts patches by attention window.

    As Qwen2.5-VL does: ``merge`` x ``merge`` neighbours follow each other, row by row; these units row by row in
    windows of ``window`` x ``window`` units, windows row by row, smaller at the right and lower edge.
    """
    row, column = np.divmod(np.arange(height * width), width)
    unit_row, unit_column = row // merge, column // merge
    keys = (
        *(unit_row // window, unit_column // window),
        *(unit_row % window, unit_column % window),
        *(row % merge, column % merge),
    )
    token_to_patch = np.lexsort(keys[::-1])  # the last key of lexsort counts first
    return np.argsort(token_to_patch)


def _sides(value: Any) -> tuple[int, int] | None:
    """(height, width) of a config's number or pair."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None


def grid_of(vlm: VLM, processor: Any, picture: Picture | None, num_patches: int) -> Grid | None:
    """The grid of one picture's patches in the tower's blocks; None where it is not known.

    A tower with a row per image has the grid of its config. In a packed tower each picture has its own, which the
    image processor tells (``image_grid_thw``), and patches lie by window where the config has one.
    """
    config = vlm.config.vision_config
    if vlm.tower.layout == "images tokens dim":
        image, patch = (_sides(getattr(config, name, None)) for name in ("image_size", "patch_size"))
        image = _sides(getattr(vlm.config, PICTURE_PX, None)) or image
        if image is None or patch is None:
            return None
        height, width = image[0] // patch[0], image[1] // patch[1]
        return Grid(height, width) if height * width == num_patches else None
    merge, window = getattr(config, "spatial_merge_size", None), getattr(config, "window_size", None)
    if picture is None or merge is None:
        return None
    made = processor.image_processor(images=[open_image(picture)], return_tensors="np")
    if "image_grid_thw" not in made:
        return None
    frames, height, width = (int(number) for number in made["image_grid_thw"][0])
    if frames != 1 or height * width != num_patches:
        return None
    side = max(height, width) if window is None else window // merge // config.patch_size
    return Grid(height, width, window_order(height, width, merge, side))


def on_patches(
    gaze: Float[np.ndarray, "tokens heads"], prefix_tokens: int
) -> tuple[Float[np.ndarray, " patches"], float]:
    """The gaze on patches, mean over heads and summing to 1, and the share that went to prefix tokens."""
    mean = gaze.mean(axis=1)
    patches, total = mean[prefix_tokens:], float(mean.sum())
    share = float(patches.sum()) / total
    # All of it on the prefix (the softmax of a reduced precision can do that): nothing is known about the patches.
    looked = patches / patches.sum() if share > 0 else np.full_like(patches, 1 / len(patches))
    return looked, 1 - share


def total_variation(a: Float[np.ndarray, " patches"], b: Float[np.ndarray, " patches"]) -> float:
    """Half of the summed absolute differences of two distributions, in [0, 1]."""
    return float(np.abs(a - b).sum() / 2)


@dataclass(frozen=True)
class Pair:
    """Two looks at one picture under two questions, by their places."""

    first: int
    second: int
    picture: Picture
    is_same_task: bool


def pairs_on_one_picture(looks: Sequence[Look], lengths: Sequence[int], seed: int = 0) -> list[Pair]:
    """Every two looks at the same picture under different questions; of many on one picture, random ones."""
    by_picture: dict[Picture, list[int]] = {}
    for place, look in enumerate(looks):
        if look.picture is not None:
            by_picture.setdefault(look.picture, []).append(place)
    generator = np.random.default_rng(seed)
    pairs = []
    for picture, places in by_picture.items():
        found = [
            Pair(a, b, picture, looks[a].task == looks[b].task)
            for a, b in combinations(places, 2)
            if looks[a].question != looks[b].question and lengths[a] == lengths[b]
        ]
        kept = sorted(generator.permutation(len(found))[:PAIRS_PER_PICTURE])
        pairs += [found[place] for place in kept]
    return pairs


def _shown(pairs: Sequence[Pair], looks: Sequence[Look], count: int, seed: int) -> list[Pair]:
    """One pair of each of ``count`` random pictures: of two tasks if there is one, and of those shown least so far."""
    by_picture: dict[Picture, list[Pair]] = {}
    for pair in pairs:
        by_picture.setdefault(pair.picture, []).append(pair)
    pictures = list(by_picture)
    shown: list[Pair] = []
    times: dict[str, int] = {}
    for place in np.random.default_rng(seed).permutation(len(pictures))[:count]:
        tasks = {pair: (looks[pair.first].task, looks[pair.second].task) for pair in by_picture[pictures[place]]}
        best = min(tasks, key=lambda pair: (pair.is_same_task, sum(times.get(task, 0) for task in tasks[pair])))
        shown.append(best)
        for task in tasks[best]:
            times[task] = times.get(task, 0) + 1
    return shown


def _rounded(values: Float[np.ndarray, " patches"]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def gaze_record(
    model: nn.Module,
    processor: Any,
    observed: Observed,
    samples: Mapping[str, Sample],
    labels: Mapping[str, str],
    *,
    questions: Mapping[str, str] | None = None,
    shown: int = SHOWN,
    seed: int = 0,
) -> Record | None:
    """The record ``gaze.json`` of a run; None where nothing looks at the picture (no router, context of text alone).

    ``samples``, ``labels`` and ``questions`` go by the row's id (see ``looks_of``). Of the last mixture block. Rows
    have to share pictures: ``data.grouping.choose(..., share_pictures=True)`` makes them. ``distance`` is over all
    pairs, ``distance_same_task`` and ``distance_other_task`` over those of one and of two tasks; intervals draw
    pictures. ``prefix`` is the share of the gaze on prefix tokens (class token, registers), which ``gaze`` leaves out.
    """
    if not observed.gaze:
        return None
    vlm = VLM.of(model)
    block = max(observed.gaze)
    looks = looks_of(observed.sample_ids, samples, labels, questions)
    split = [on_patches(array(gaze), vlm.tower.prefix_tokens) for gaze in observed.gaze[block]]
    gazes, prefixes = [gaze for gaze, _ in split], [share for _, share in split]
    lengths, groups = [len(gaze) for gaze in gazes], [look.group for look in looks]
    pairs = pairs_on_one_picture(looks, lengths, seed)

    def distance(kept: Sequence[Pair]) -> Record:
        values = [total_variation(gazes[pair.first], gazes[pair.second]) for pair in kept]
        return estimate(values, [str(pair.picture) for pair in kept], seed)

    reasons = {}
    if not pairs:
        reasons["distance"] = "no two of the samples ask different questions about one picture"
    grids: dict[Picture, Grid | None] = {}

    def drawn(place: int, grid: Grid | None) -> Record:
        look = looks[place]
        gaze = gazes[place] if grid is None or grid.order is None else gazes[place][grid.order]
        own = {"id": look.id, "task": look.task, "question": look.question}
        return {**own, "gaze": _rounded(gaze), "prefix": float(f"{prefixes[place]:.{DIGITS}g}")}

    drawings = []
    for pair in _shown(pairs, looks, shown, seed):
        grid = grid_of(vlm, processor, pair.picture, lengths[pair.first])
        grids[pair.picture] = grid
        drawings.append(
            {
                **drawn(pair.first, grid),
                "image": str(pair.picture),
                "grid": None if grid is None else [grid.height, grid.width],
                "other": drawn(pair.second, grid),
                "distance": total_variation(gazes[pair.first], gazes[pair.second]),
            }
        )
    sizes = {None if grid is None else (grid.height, grid.width) for grid in grids.values()}
    common = sizes.pop() if len(sizes) == 1 else None
    if drawings and common is None:
        why = "pictures have grids of their own" if sizes else "how this tower's patches lie is not known"
        reasons["grid"] = why
    return {
        "block": block,
        "grid": None if common is None else list(common),
        "num_pairs": len(pairs),
        "samples": drawings,
        "distance": distance(pairs),
        "distance_same_task": distance([pair for pair in pairs if pair.is_same_task]),
        "distance_other_task": distance([pair for pair in pairs if not pair.is_same_task]),
        "entropy": estimate([float(entr(gaze).sum()) for gaze in gazes], groups, seed),
        "max_entropy": float(np.mean([log(length) for length in lengths])),
        "prefix": estimate(prefixes, groups, seed),
        "reasons": reasons,
    }
