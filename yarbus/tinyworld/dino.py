"""A third pair of eyes without words: an unmodified DINOv2 vision model of width 80 that never sees a label.

It learns from two drawings of the same handwriting: place, size, tilt and noise are drawn anew, so only the strokes
agree. All single digits of a step have one tint and one kind of ground: these tell no scene from another, and no
blindness to them is asked for. It learns two things at once: which of all drawings of the step is the other one of
this scene (InfoNCE on the class token and the mean of patches), and how hidden patches look (their pixels).

This is the architecture of DINOv2 and not its objective: no teacher that follows the student, no prototypes. Neither a
teacher for both targets nor this loss broke away from chance in 200 to 300 steps while two drawings differed in all
ways from the start. So their differences are let in bit by bit, as fast as drawings are still found again: how far it
has come is part of the model's state.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from yarbus.tinyworld.loop import Schedule
from yarbus.tinyworld.scene import (
    COLOURS,
    GROUNDS,
    IMAGE_PX,
    PATTERNS,
    SIZES,
    USUAL,
    Look,
    Pattern,
    Scene,
    draw_scene,
    near_the_middle,
    render,
)
from yarbus.tinyworld.tower import initialise, normalise

PATCH_PX = 8
PATCHES_PER_SIDE = IMAGE_PX // PATCH_PX


def pale(amount: float) -> Look:
    """How pictures look with so much of every tint, the rest white, and so much of every pattern."""

    def faded(pattern: Pattern) -> Pattern:
        return lambda rows, columns, period: amount * np.asarray(pattern(rows, columns, period), dtype=np.float64)

    white = np.asarray(COLOURS["white"])
    tints = {name: (white + amount * (np.asarray(tint) - white)).tolist() for name, tint in COLOURS.items()}
    return replace(
        USUAL,
        colours={name: (tint[0], tint[1], tint[2]) for name, tint in tints.items()},
        grounds={name: faded(pattern) for name, pattern in PATTERNS.items()},
    )


@dataclass(frozen=True, kw_only=True)
class DinoSchedule(Schedule):
    """At first large white digits, upright in the middle of a plain ground; soon in the step's tint on its pattern, and
    the farther away and the more tilted the better they are found. Once they are anywhere, half are of every size, and
    half are scenes of two to four in any tints."""

    seed: int = 1967
    steps: int = 3500
    batch: int = 40
    """Scenes; each is drawn twice."""
    learning_rate: float = 1e-3
    save_every: int = 100
    log_every: int = 50
    forward: float = 0.004
    back: float = 0.002
    """How much of the way a step adds, or takes away, as pictures are found or not."""
    found_enough: float = 0.2
    """Fraction of pictures that must be found again for drawings to differ more."""
    tint_until: float = 0.25
    """How far on the way tints and patterns are as strong as they will be."""
    hidden_fraction: float = 0.3
    """Of the patches of every second picture, by lot."""
    pixel_weight: float = 1.0
    temperature: float = 0.15


def dino_config(dim: int = 80, num_blocks: int = 5) -> Dinov2Config:
    """Five blocks of width 80 over 36 patches and one class token."""
    return Dinov2Config(
        hidden_size=dim,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        mlp_ratio=4,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        hidden_act="gelu",
    )


class Onlooker(nn.Module):
    """The vision model, a head for the whole picture and one for a patch's pixels."""

    def __init__(self, seed: int, dim: int = 80, num_blocks: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tower = Dinov2Model(dino_config(dim, num_blocks))
        # Without batch norm all pictures begin as almost one direction, and nothing tells them apart.
        self.whole = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.BatchNorm1d(2 * dim), nn.GELU(), nn.Linear(2 * dim, 64),
            nn.BatchNorm1d(64, affine=False),
        )  # fmt: skip
        self.pixels = nn.Linear(dim, 3 * PATCH_PX**2)
        self.spread: Tensor
        self.register_buffer("spread", torch.zeros(()))
        initialise(self.tower)

    def forward(self, pixel_values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the pictures ``[images, 64]``, and pixels of the hidden patches ``[hidden, 192]``."""
        out = self.tower(pixel_values, bool_masked_pos=hidden)
        patches = out.last_hidden_state[:, 1:]
        summary = torch.cat([out.pooler_output, patches.mean(1)], dim=1)
        return F.normalize(self.whole(summary), dim=-1), self.pixels(patches[hidden])


def drawn_again(scene: Scene, seed: tuple[int, ...], sizes: tuple[str, ...]) -> Scene:
    """Another drawing of the same scans. What finds no room in a crowded one is left out."""
    count = len(scene.digits)
    again = draw_scene("train", seed, num_digits=(count, count), sizes=sizes)
    digits = [
        replace(digit, digit=shown.digit, scan=shown.scan)
        for digit, shown in zip(again.digits, scene.digits, strict=False)
    ]
    return replace(again, digits=tuple(digits))


def _dressed(scene: Scene, colour: str, ground: str) -> Scene:
    """A single digit in that tint on that ground; a scene of several stays as it is."""
    if len(scene.digits) > 1:
        return scene
    return replace(scene, ground=ground, digits=tuple(replace(digit, colour=colour) for digit in scene.digits))


def drawings(schedule: DinoSchedule, step: int, spread: float) -> Tensor:
    """One step's fresh scenes and behind them their other drawings, ``[2 * scenes, 3, 48, 48]``, normalised."""
    early = spread < 1
    sizes = ("large",) if early else tuple(SIZES)
    rng, scenes, others = default_rng((schedule.seed, 11, step)), list[Scene](), list[Scene]()
    colour, ground = (names[rng.integers(len(names))] for names in (tuple(COLOURS), GROUNDS))
    for number in range(step * schedule.batch, (step + 1) * schedule.batch):
        num_digits = (1, 1) if early or number % 2 else (2, 4)
        scenes.append(draw_scene("train", (schedule.seed, 8, number), num_digits=num_digits, sizes=sizes))
        others.append(drawn_again(scenes[-1], (schedule.seed, 9, number), sizes))
    look = pale(min(1.0, spread / schedule.tint_until))
    scenes, others = ([_dressed(scene, colour, ground) for scene in some] for some in (scenes, others))
    pictures = [render(near_the_middle(scene, spread) if early else scene, look) for scene in scenes + others]
    return normalise(np.stack(pictures))


def hide(schedule: DinoSchedule, num_images: int, step: int) -> Tensor:
    """Which patches are hidden, ``[images, 36]``: as many in each of a half drawn by lot, so that two drawings of one
    scene have neither in common more often than strangers have."""
    rng = default_rng((schedule.seed, 10, step))
    order = torch.from_numpy(rng.random((num_images, PATCHES_PER_SIDE**2)))
    hidden = order.argsort(1).argsort(1) < round(schedule.hidden_fraction * PATCHES_PER_SIDE**2)
    hidden[torch.from_numpy(rng.permutation(num_images)[: num_images // 2])] = False
    return hidden


def pixels_of_patches(pictures: Tensor) -> Tensor:
    """``[images, 36, 192]``"""
    return F.unfold(pictures, PATCH_PX, stride=PATCH_PX).transpose(1, 2)


def look_loss(onlooker: Onlooker, schedule: DinoSchedule, step: int) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step, how often a picture is closest to its own other drawing, and the error of hidden pixels."""
    pictures = drawings(schedule, step, float(onlooker.spread))
    hidden = hide(schedule, len(pictures), step)
    whole, guessed = onlooker(pictures, hidden)
    own = torch.arange(len(pictures)).roll(schedule.batch)
    likeness = (whole @ whole.T / schedule.temperature).masked_fill(torch.eye(len(pictures)) > 0, -torch.inf)
    pixels = F.mse_loss(guessed, pixels_of_patches(pictures)[hidden])
    loss = F.cross_entropy(likeness, own) + schedule.pixel_weight * pixels
    found = float((likeness.argmax(1) == own).float().mean())
    far = float(onlooker.spread)
    if far < 1:  # once anywhere, always anywhere
        change = schedule.forward if found >= schedule.found_enough else -schedule.back
        onlooker.spread.fill_(min(1.0, max(0.0, far + change)))
    return loss, {"found_again": round(found, 3), "pixels": round(pixels.item(), 3), "spread": round(far, 3)}
