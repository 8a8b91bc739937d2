"""Two more bases of the embedded world: ``python -m results.bases``, resumable, about an hour of one core.

``narrow`` has a tower of width 64 in the place of 96, trained as the shipped one, under the shipped language model.
``large`` has a language model of five blocks of width 144 in the place of three of 96, trained as the shipped one,
behind the shipped tower. Both are ordinary LLaVA folders under ``comparisons/bases`` and are never committed.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from yarbus.core.records import make_folder
from yarbus.models.load import load_base
from yarbus.tinyworld.base import build_llava, save_base
from yarbus.tinyworld.decoder import DecoderSchedule, SlotReader, decoder_loss
from yarbus.tinyworld.loop import train
from yarbus.tinyworld.tower import Tagger, TowerSchedule, tag_loss

WORK = Path("comparisons") / "bases"
NARROW = 64
"""Width of the second tower."""
LARGE = {"dim": 144, "num_blocks": 5}
"""Size of the second language model: 3.5 times the shipped one's parameters."""


def shipped_tower(shipped: nn.Module, seed: int) -> Tagger:
    """The tower of the shipped base; its tag head is not needed any more."""
    tagger = Tagger(seed)
    tower = shipped.model.vision_tower.state_dict()
    wanted = tagger.tower.state_dict()
    tagger.tower.load_state_dict({name: tower[name] for name in wanted})
    return tagger


def shipped_reader(shipped: nn.Module, seed: int) -> SlotReader:
    """The language model of the shipped base."""
    reader = SlotReader(seed)
    reader.language_model.model.load_state_dict(shipped.model.language_model.state_dict())
    reader.language_model.lm_head.load_state_dict(shipped.lm_head.state_dict())
    return reader


def make(work: Path) -> None:
    """Trains what is missing and writes both folders."""
    shipped, _ = load_base("tinyworld:base")
    tower, decoder = TowerSchedule(), DecoderSchedule()
    if not (work / "narrow" / "config.json").is_file():
        tagger = Tagger(tower.seed, NARROW)
        train(tagger, lambda step: tag_loss(tagger, tower, step), tower, work / "narrow-tower", resume=True)
        make_folder(work / "narrow")
        save_base(build_llava(tagger, shipped_reader(shipped, decoder.seed), tower.seed), work / "narrow")
    if not (work / "large" / "config.json").is_file():
        reader = SlotReader(decoder.seed, **LARGE)
        train(reader, lambda step: decoder_loss(reader, decoder, step), decoder, work / "large-decoder", resume=True)
        make_folder(work / "large")
        save_base(build_llava(shipped_tower(shipped, tower.seed), reader, tower.seed), work / "large")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the bases")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.work)


if __name__ == "__main__":
    main()
