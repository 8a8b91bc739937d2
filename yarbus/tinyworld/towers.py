"""Makes two further towers that ship: ``python -m yarbus.tinyworld.towers [siglip] [dino] [--minutes N] [--resume]``.

Both are ordinary folders of the library, ``tinyworld:siglip`` and ``tinyworld:dino``, trained from scenes of train
scans only. What was done is written to ``files/towers.json``; ``tinyworld.tower_gates`` measures them.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from yarbus.core.plugins import cache_folder
from yarbus.tinyworld.base import load_in_float32
from yarbus.tinyworld.dino import DinoSchedule, Onlooker, look_loss
from yarbus.tinyworld.loop import Loss, Schedule, train
from yarbus.tinyworld.pretrain import FILES, UNFINISHED
from yarbus.tinyworld.scene import IMAGE_PX
from yarbus.tinyworld.siglip import CaptionReader, SiglipSchedule, pair_loss
from yarbus.tinyworld.tower import IMAGE_MEAN, IMAGE_STD

RECORD = "towers.json"
PICTURES: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": IMAGE_PX, "width": IMAGE_PX},
    "do_convert_rgb": True,
    "image_mean": [IMAGE_MEAN] * 3,
    "image_std": [IMAGE_STD] * 3,
}


@dataclass(frozen=True)
class Part:
    """One tower in training."""

    module: nn.Module
    loss: Loss
    schedule: Schedule
    save: Callable[[Path], None]


def siglip(schedule: SiglipSchedule) -> Part:
    """The pair of vision and text side."""
    reader = CaptionReader(schedule.seed)

    def save(folder: Path) -> None:
        save_tower(reader.model, SiglipImageProcessorPil(**PICTURES), folder)
        reader.tokenizer.save_pretrained(folder)

    return Part(reader, lambda step: pair_loss(reader, schedule, step), schedule, save)


def dino(schedule: DinoSchedule) -> Part:
    """The vision model alone."""
    onlooker = Onlooker(schedule.seed)

    def save(folder: Path) -> None:
        save_tower(onlooker.tower, BitImageProcessorPil(**PICTURES, do_center_crop=False), folder)

    return Part(onlooker, lambda step: look_loss(onlooker, schedule, step), schedule, save)


TOWERS: dict[str, Callable[[], Part]] = {
    "siglip": lambda: siglip(SiglipSchedule()),
    "dino": lambda: dino(DinoSchedule()),
}


def save_tower(model: Any, image_processor: Any, folder: Path) -> None:
    """Weights in half precision on disk, to be loaded in float32."""
    model.half().save_pretrained(folder)
    load_in_float32(folder)
    image_processor.save_pretrained(folder)


def pretrain(names: list[str], work: Path, files: Path, *, minutes: float = float("inf"), resume: bool = False) -> bool:
    """Whether the named towers are finished and stand in ``files``; else ``resume`` goes on from ``work``."""
    end = time.monotonic() + 60 * minutes
    for name in names:
        part, left = TOWERS[name](), (end - time.monotonic()) / 60
        if not train(part.module, part.loss, part.schedule, work / name, minutes=left, resume=resume):
            return False
        files.mkdir(parents=True, exist_ok=True)
        part.save(files / name)
        record = json.loads((files / RECORD).read_text()) if (files / RECORD).is_file() else {"parts": {}}
        record["command"] = "python -m yarbus.tinyworld.towers"
        record["versions"] = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        record["parts"][name] = json.loads((work / name / "log.json").read_text())
        (files / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("towers", nargs="*", default=list(TOWERS), help=f"of {', '.join(TOWERS)}; all if left out")
    parser.add_argument("--minutes", type=float, default=75, help="stop at a checkpoint after so long")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in the work folder")
    parser.add_argument("--work", type=Path, default=cache_folder() / "tinyworld-towers")
    parser.add_argument("--files", type=Path, default=FILES)
    arguments = parser.parse_args()
    if unknown := set(arguments.towers) - set(TOWERS):
        parser.error(f"no tower {', '.join(sorted(unknown))}; there are {', '.join(TOWERS)}")
    torch.set_num_threads(1)
    finished = pretrain(
        arguments.towers, arguments.work, arguments.files, minutes=arguments.minutes, resume=arguments.resume
    )
    sys.exit(0 if finished else UNFINISHED)


if __name__ == "__main__":
    main()
