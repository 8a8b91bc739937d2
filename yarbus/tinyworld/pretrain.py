"""Makes the base that ships with the package: ``python -m yarbus.tinyworld.pretrain [--minutes N] [--resume]``.

Three parts are trained one after the other, each from scenes of train scans only: the tower from image tags, the
language model from symbolic slots, the text encoder from wording. What was done is written to
``files/pretraining.json``.
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import torch
import transformers

from yarbus.core.plugins import cache_folder
from yarbus.tinyworld.base import build_llava, save_base, save_text_encoder
from yarbus.tinyworld.decoder import DecoderSchedule, SlotReader, decoder_loss
from yarbus.tinyworld.loop import train
from yarbus.tinyworld.text_encoder import QuestionReader, TextSchedule, text_loss
from yarbus.tinyworld.tower import Tagger, TowerSchedule, tag_loss

FILES = Path(__file__).parent / "files"
UNFINISHED = 3
"""Exit code when the time is over before the parts are finished."""


def pretrain(work: Path, files: Path, *, minutes: float = math.inf, resume: bool = False) -> bool:
    """Whether the base is finished and stands in ``files``; else ``resume`` goes on from ``work``."""
    end = time.monotonic() + 60 * minutes
    tower, decoder, text = TowerSchedule(), DecoderSchedule(), TextSchedule()
    tagger, slots, questions = Tagger(tower.seed), SlotReader(decoder.seed), QuestionReader(text.seed)
    parts = (
        ("tower", tagger, tower, lambda step: tag_loss(tagger, tower, step)),
        ("decoder", slots, decoder, lambda step: decoder_loss(slots, decoder, step)),
        ("text_encoder", questions, text, lambda step: text_loss(questions, text, step)),
    )
    for name, module, schedule, loss in parts:
        left = (end - time.monotonic()) / 60
        if not train(module, loss, schedule, work / name, minutes=left, resume=resume):
            return False
    save_base(build_llava(tagger, slots, tower.seed), files / "base")
    save_text_encoder(questions, files / "text_encoder")
    logs = {name: json.loads((work / name / "log.json").read_text()) for name, *_ in parts}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    record = {"command": "python -m yarbus.tinyworld.pretrain", "versions": versions, "parts": logs}
    (files / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=75, help="stop at a checkpoint after so long")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in the work folder")
    parser.add_argument("--work", type=Path, default=cache_folder() / "tinyworld-pretraining")
    parser.add_argument("--files", type=Path, default=FILES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    finished = pretrain(arguments.work, arguments.files, minutes=arguments.minutes, resume=arguments.resume)
    sys.exit(0 if finished else UNFINISHED)


if __name__ == "__main__":
    main()
