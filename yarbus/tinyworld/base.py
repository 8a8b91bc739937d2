"""The base: tower, fresh projector and language model as one ordinary LLaVA, saved as the library saves it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from yarbus.tinyworld.decoder import NUM_SLOTS, SlotReader
from yarbus.tinyworld.processor import build_processor
from yarbus.tinyworld.scene import draw_scene, render
from yarbus.tinyworld.text_encoder import QuestionReader
from yarbus.tinyworld.tower import Tagger, initialise, normalise, tower_config


def build_llava(tagger: Tagger, reader: SlotReader, seed: int) -> LlavaForConditionalGeneration:
    """LLaVA of six pre-trained blocks, a seventh that is never executed, and a projector that has seen nothing."""
    language = reader.language_model
    config = LlavaConfig(
        vision_config=tower_config(dim=tagger.tower.config.hidden_size),
        text_config=language.config,
        image_token_id=reader.tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=NUM_SLOTS,
        pad_token_id=language.config.pad_token_id,
        eos_token_id=language.config.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    initialise(tower)
    missing, unexpected = tower.load_state_dict(tagger.tower.state_dict(), strict=False)
    assert not unexpected and all(".6." in name for name in missing)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    slot_std = float(language.get_input_embeddings().weight.detach().std())
    initialise_projector(model, features_of(model, _some_pictures(seed)), slot_std)
    model.generation_config.pad_token_id = language.config.pad_token_id
    model.generation_config.eos_token_id = language.config.eos_token_id
    return model


@torch.no_grad()
def features_of(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """What the tower hands the projector, ``[images, 36, dim]``."""
    states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]


def _some_pictures(seed: int) -> Tensor:
    scenes = [draw_scene("train", (seed, 5, number)) for number in range(64)]
    return normalise(np.stack([render(scene) for scene in scenes]))


def initialise_projector(model: LlavaForConditionalGeneration, features: Tensor, wanted_std: float) -> None:
    """Zero biases, and random weights that give the projected tokens the spread of word embeddings.

    The library's start (std .02) is made for widths in the thousands; at width 96 the language model would see nothing.
    """
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    with torch.no_grad():
        for layer in (first, second):
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        first.weight /= first(features).std()
        second.weight *= wanted_std / second(nn.functional.gelu(first(features))).std()


def save_base(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Weights in half precision on disk; the configuration says float32, so that they are loaded as such."""
    model.half().save_pretrained(folder)
    load_in_float32(folder)
    build_processor().save_pretrained(folder)


def load_in_float32(folder: Path) -> None:
    """Lets a saved configuration say float32, whatever its weights are kept in."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(_in_float32(config), indent=2) + "\n")


def _in_float32(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _in_float32(value) if isinstance(value, dict) else "float32" if key == "dtype" else value
        for key, value in config.items()
    }


def save_text_encoder(reader: QuestionReader, folder: Path) -> None:
    """An ordinary BERT folder with its tokenizer."""
    reader.encoder.save_pretrained(folder)
    reader.tokenizer.save_pretrained(folder)
