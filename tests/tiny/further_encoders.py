"""Bare vision encoders with their image processors, as folders: other widths, sizes and numbers of patches."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny.parts import lively
from yarbus.models.cumo import CumoVisionConfig, CumoVisionModel

_HOME = tempfile.TemporaryDirectory(prefix="yarbus-tiny-encoders-")


def clip_vision(dim: int = 24, image_px: int = 28):
    """A CLIP of two blocks; four patches of 14 pixels where pictures have 28."""
    torch.manual_seed(5)
    sizes = {"hidden_size": dim, "intermediate_size": 2 * dim, "num_hidden_layers": 2, "num_attention_heads": 2}
    return lively(CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=image_px, patch_size=14)))


def siglip_vision():
    """No class token, and nine patches of 14 pixels."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 20, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return lively(SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=42, patch_size=14)))


def cumo_vision():
    """A CLIP with four experts per block, of which a token takes two."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return lively(CumoVisionModel(CumoVisionConfig(**sizes, image_size=42, patch_size=14)))


def clip_pictures(image_px: int):
    """CLIP's image processor for pictures of that many pixels a side."""
    return CLIPImageProcessorPil(size={"shortest_edge": image_px}, crop_size={"height": image_px, "width": image_px})


MADE = {
    "clip": (clip_vision, lambda: clip_pictures(28)),
    "siglip": (siglip_vision, lambda: SiglipImageProcessorPil(size={"height": 42, "width": 42})),
    "cumo": (cumo_vision, lambda: clip_pictures(42)),
}


@cache
def encoder_folder(kind: str) -> str:
    """The folder of one encoder, made once and gone with the process."""
    model, image_processor = (make() for make in MADE[kind])
    folder = Path(_HOME.name) / kind
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return str(folder)
