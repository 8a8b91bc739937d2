"""Parts to build a model from, as folders: towers with their image processors, language models with tokenizers."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    LlamaForCausalLM,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from tests.tiny.encoders import clip_folder, dino_folder, siglip_folder
from tests.tiny.further_encoders import encoder_folder
from tests.tiny.llava import SIZES, llama
from tests.tiny.parts import lively, word_tokenizer

NUM_REGISTERS = 3
SQUARE = {"height": 28, "width": 28}
DINOS = {
    "dinov2_registers": Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=NUM_REGISTERS),
    "dinov3": DINOv3ViTConfig(**SIZES, intermediate_size=64, num_register_tokens=NUM_REGISTERS, pos_embed_rescale=None),
    "dinov2_at_another_size": Dinov2Config(**{**SIZES, "image_size": 56}, mlp_ratio=2),
}
"""The last one has positions for 56 pixels, and a processor that makes 28, as DINOv2's checkpoints have 518 and 224."""
TOWERS = ("clip", "clip_whole", "siglip", "siglip_whole", "dinov2", *DINOS, "tinyworld:siglip", "tinyworld:dino")


def tower_folder(kind: str, folder: Path) -> str:
    """A tower by name; those of the embedded world are there already."""
    if ":" in kind:
        return kind
    if kind in ("clip", "siglip"):
        return encoder_folder(kind)
    if kind not in DINOS:
        make = {"clip_whole": clip_folder, "siglip_whole": siglip_folder, "dinov2": dino_folder}[kind]
        return str(make(folder / kind))
    torch.manual_seed(4)
    lively(AutoModel.from_config(DINOS[kind])).save_pretrained(folder / kind)
    BitImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(folder / kind)
    return str(folder / kind)


def words() -> Any:
    """A tokenizer that knows no pictures."""
    return word_tokenizer(["<pad>", "<unk>", "</s>"], pad_token="<pad>", eos_token="</s>")


def language_folder(folder: Path, tokenizer: Any = None, config: Any = None, **settings: Any) -> str:
    """A language model of text alone: a Llama, unless ``config`` is another's."""
    tokenizer = words() if tokenizer is None else tokenizer
    torch.manual_seed(6)
    if config is None:
        config = llama(tokenizer)
        for key, value in settings.items():
            setattr(config, key, value)
        model = LlamaForCausalLM(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    model = lively(model)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
