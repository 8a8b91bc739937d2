"""The vision tower: an unmodified CLIP vision model that learns *what* is in a scene, and is never asked *where*.

It is pre-trained on image tags: which digits, which colours and which pairs of both a scene holds. The tags carry
no positions: a tag's score is the log of the mean of exponentials over patches, so any patch may vouch for it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel

from yarbus.tinyworld.loop import Schedule
from yarbus.tinyworld.scene import COLOURS, IMAGE_PX, SIZES, Scene, draw_scene, render

NUM_TAGS = 10 + len(COLOURS) + 10 * len(COLOURS)
IMAGE_MEAN, IMAGE_STD = 0.35, 0.28
"""Of every channel, in 0..1; the processor of the base uses the same."""


@dataclass(frozen=True, kw_only=True)
class TowerSchedule(Schedule):
    """Single large digits first, then scenes."""

    seed: int = 1967
    steps: int = 6000
    batch: int = 96
    learning_rate: float = 1e-3
    single_fraction: float = 0.25


def tower_config(num_blocks: int = 7, dim: int = 96) -> CLIPVisionConfig:
    """Seven blocks of which LLaVA executes six: features leave through ``hidden_states[-2]``."""
    return CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        image_size=IMAGE_PX,
        patch_size=8,
        projection_dim=dim,
        hidden_act="gelu",
    )


class Tagger(nn.Module):
    """The six executed blocks with a linear tag head on every patch."""

    def __init__(self, seed: int, dim: int = 96) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tower = CLIPVisionModel(tower_config(num_blocks=6, dim=dim))
        self.tags = nn.Linear(self.tower.config.hidden_size, NUM_TAGS)
        initialise(self.tower)
        with torch.no_grad():
            self.tags.bias.fill_(-3.5)
            self.tags.bias[: 10 + len(COLOURS)] = -1.1

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tag scores ``[images, tags]`` of normalised ``[images, 3, 48, 48]`` pixels."""
        patches = self.tower(pixel_values).last_hidden_state[:, 1:]
        return torch.logsumexp(self.tags(patches), dim=1) - math.log(patches.shape[1])


def initialise(tower: PreTrainedModel) -> None:
    """Zero biases and scaled weights: with the library's own start the tower stays at chance (world.md, 1)."""
    depth = tower.config.num_hidden_layers
    for name, parameter in tower.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "position_embedding" in name or "class_embedding" in name:
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim > 1:
            std = parameter[0].numel() ** -0.5
            is_output = name.endswith(("out_proj.weight", "o_proj.weight", "fc2.weight"))
            nn.init.normal_(parameter, std=std / math.sqrt(2 * depth) if is_output else std)


def normalise(pictures: np.ndarray) -> Tensor:
    """``[images, 48, 48, 3]`` uint8 as the tower's ``[images, 3, 48, 48]``."""
    return ((torch.from_numpy(pictures).float() / 255 - IMAGE_MEAN) / IMAGE_STD).permute(0, 3, 1, 2).contiguous()


def tags_of(scenes: list[Scene]) -> Tensor:
    """``[images, tags]`` of 0 and 1: digits, then colours, then pairs."""
    target = torch.zeros(len(scenes), NUM_TAGS)
    for row, scene in enumerate(scenes):
        for digit in scene.digits:
            colour = tuple(COLOURS).index(digit.colour)
            pair = 10 + len(COLOURS) + digit.digit * len(COLOURS) + colour
            target[row, [digit.digit, 10 + colour, pair]] = 1
    return target


def tag_loss(tagger: Tagger, schedule: TowerSchedule, step: int) -> tuple[Tensor, dict[str, float]]:
    """Sigmoid loss of one step's fresh scenes, and the fraction of digits that were found."""
    single = step < schedule.single_fraction * schedule.steps
    num_digits, sizes = ((1, 1), ("large",)) if single else ((1, 4), tuple(SIZES))
    numbers = range(step * schedule.batch, (step + 1) * schedule.batch)
    scenes = [draw_scene("train", (schedule.seed, 0, number), num_digits=num_digits, sizes=sizes) for number in numbers]
    scores = tagger(normalise(np.stack([render(scene) for scene in scenes])))
    target = tags_of(scenes)
    split = (10, len(COLOURS), 10 * len(COLOURS))
    losses = [
        nn.functional.binary_cross_entropy_with_logits(score, wanted)
        for score, wanted in zip(scores.split(split, dim=1), target.split(split, dim=1), strict=True)
    ]
    return torch.stack(losses).sum(), {"digit_recall": round(digit_recall(scores, target), 3)}


def digit_recall(scores: Tensor, target: Tensor) -> float:
    """Fraction of a scene's digits among its best-scored tags, when as many are taken as there are digits."""
    found = 0.0
    for score, wanted in zip(scores[:, :10], target[:, :10], strict=True):
        best = score.topk(int(wanted.sum())).indices
        found += float(wanted[best].sum())
    return found / float(target[:, :10].sum())
