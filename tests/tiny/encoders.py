"""Bare encoders as folders: a CLIP and a SigLIP pair with tokenizers, a DINOv2 without words; 28 pixels."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny.parts import lively

LENGTH = 12
SQUARE = {"height": 28, "width": 28}
WORDS = ["a", "photo", "of", "the", "picture", "cat", "dog", "tabby", "shark", "tiger", "red", "blue", "this", "is"]
VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}


def _tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<pad>", "<unk>", "</s>"]
    tokens = {word: number for number, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=LENGTH
    )


def _text() -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS) + 3, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": LENGTH, "pad_token_id": 0, "eos_token_id": 2,
        "bos_token_id": None,
    }  # fmt: skip


def clip_folder(folder: Path) -> Path:
    torch.manual_seed(1)
    config = CLIPConfig(text_config=_text(), vision_config={**VISION, "intermediate_size": 64}, projection_dim=24)
    lively(CLIPModel(config)).save_pretrained(folder)
    CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def siglip_folder(folder: Path) -> Path:
    torch.manual_seed(2)
    config = SiglipConfig(text_config=_text(), vision_config={**VISION, "intermediate_size": 64})
    lively(SiglipModel(config)).save_pretrained(folder)
    SiglipImageProcessorPil(size=SQUARE).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def dino_folder(folder: Path) -> Path:
    torch.manual_seed(3)
    lively(Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2))).save_pretrained(folder)
    BitImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(folder)
    return folder


PAIRS = {"clip": clip_folder, "siglip": siglip_folder}
ENCODERS = {**PAIRS, "dino": dino_folder}
