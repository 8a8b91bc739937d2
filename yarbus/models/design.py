"""What a model from parts will be, before a weight is read: its architecture and its processor.

With any tower the projector is handed the input of the last block, before any norm: what LLaVA-1.5 takes of CLIP, and
Prismatic of CLIP, SigLIP and DINOv2 alike (arXiv:2402.07865). The class token is left out where there is one, registers
always (``models.registers``). Pictures are as the tower's own image processor makes them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from transformers import AddedToken, AutoTokenizer, LlavaConfig, LlavaProcessor

from yarbus.core.errors import ConfigError
from yarbus.core.parts import Parts
from yarbus.core.plugins import resolve
from yarbus.core.table import closest
from yarbus.models.families.llava import PICTURE_PX
from yarbus.models.image_processors import load_image_processor
from yarbus.models.picture_template import template_with_pictures
from yarbus.models.pretrained import FAILURES, read_config, reason
from yarbus.models.question import IMAGE_TAG
from yarbus.models.registers import REMEMBERED
from yarbus.models.vlm import FAMILIES, Tower, tower_of

FEATURE_LAYER = -2
"""Which of the tower's hidden states the projector is handed."""
BOOKKEEPING = frozenset({"architectures", "dtype", "model_type", "transformers_version", "_name_or_path"})
"""Entries of a config.json that say nothing of what is computed."""
DERIVED = ("image_token_index", REMEMBERED, PICTURE_PX)
"""Entries that follow from the parts: a recipe that carries them must have them right."""
OF_ITS_OWN = "choose one that gives each image a row of its own: CLIP, SigLIP, DINOv2 or DINOv3"


def _vision_config(parts: Parts) -> Any:
    """The tower's config, of a model with words its vision half; raises where a Llava cannot carry it."""
    config = read_config(resolve(parts.vision_tower), "the vision tower", parts.vision_tower)
    config = getattr(config, "vision_config", None) or config
    tower, name = tower_of(config), type(config).__name__
    prefix = tower.prefix_tokens - getattr(config, "num_register_tokens", 0)
    odd = [key for key in ("image_size", "patch_size") if not isinstance(getattr(config, key, None), int)]
    why = ""
    if tower.layout != "images tokens dim":
        why = f"its tokens are [{tower.layout}]"
    elif odd:
        why = f"its {odd[0]} is no number of pixels"
    elif prefix not in (0, 1):
        why = f"{prefix} tokens stand before the patches, and a Llava leaves out one"
    if why:
        raise ConfigError(f"'{name}' cannot be the tower of a Llava", where=parts.vision_tower, why=why, fix=OF_ITS_OWN)
    return config


def _text_config(parts: Parts) -> Any:
    """The language model's config; raises for one that sees already."""
    config = read_config(resolve(parts.language_model), "the language model", parts.language_model)
    name = type(config).__name__
    if name in FAMILIES or config.get_text_config() is not config:
        raise ConfigError(
            f"'{name}' is no language model of text alone",
            where=parts.language_model,
            why="it is a vision-language model itself" if name in FAMILIES else "it holds one among others",
            fix="name it as base:, or give a language model such as Llama, Qwen or Mistral",
        )
    return config


def _tokenizer_of(parts: Parts) -> Any:
    """The language model's tokenizer, with a token for a picture."""
    name, fix = parts.language_model, "give a language model with its tokenizer.json"
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=False)
    except FAILURES as error:
        raise ConfigError("cannot load the tokenizer", where=name, why=reason(error), fix=fix) from None
    if not tokenizer.is_fast or not tokenizer("a", add_special_tokens=False)["input_ids"]:
        why = "it is a slow one, which does not tell places" if not tokenizer.is_fast else "it knows no words"
        raise ConfigError("the tokenizer cannot be used", where=name, why=why, fix=fix)
    if IMAGE_TAG not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TAG, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:  # masked wherever it stands
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.chat_template = template_with_pictures(tokenizer)
    return tokenizer


def _image_processor_of(name: str) -> Any:
    try:
        return load_image_processor(resolve(name))
    except FAILURES as error:
        fix = "give a tower with its preprocessor_config.json"
        raise ConfigError("cannot load the image processor", where=name, why=reason(error), fix=fix) from None


def _known(given: Mapping[str, Any], names: set[str], where: str) -> None:
    for key in given:
        if key not in names | BOOKKEEPING:
            fix = f"use one of: {closest(key, sorted(names))}"
            raise ConfigError(f"unknown entry '{key}' of the architecture", where=where, fix=fix)


def _changed(config: Any, given: Any, where: str) -> Any:
    """A part's config with other values."""
    if not given:
        return config
    own = config.to_dict()
    changes = {key: value for key, value in given.items() if key not in BOOKKEEPING}
    _known(changes, set(own), where)
    try:
        return type(config)(**{**own, **changes})
    except FAILURES as error:
        raise ConfigError("no such architecture", where=where, why=reason(error), fix="correct it") from None


def _side_of(image_processor: Any, name: str) -> int:
    """The side in pixels of every picture that the processor makes."""
    shapes = set()
    for size in ((64, 48), (48, 80)):
        made = image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["pixel_values"]
        shapes.add(tuple(made.shape))
    (_, _, height, width), *others = sorted(shapes) if all(len(shape) == 4 for shape in shapes) else [(0, 0, 0, -1)]
    if others or height != width:
        raise ConfigError(
            "the tower's image processor makes pictures of several shapes",
            where=name,
            why=f"of a broad and a high one: {', '.join(map(str, sorted(shapes)))}",
            fix="let its preprocessor_config.json crop or resize to one square (crop_size, size)",
        )
    return height


@dataclass(frozen=True, kw_only=True)
class Design:
    """All that is known of a model from parts before a weight is read."""

    parts: Parts
    vision: Any
    """The tower's config, with what ``config`` changes."""
    text: Any
    """The language model's own; its number of words is that of its checkpoint."""
    config: LlavaConfig
    """The whole model's; registers are not yet dropped."""
    processor: LlavaProcessor

    @classmethod
    def of(cls, parts: Parts) -> "Design":
        """Reads the configs, the tokenizer and the image processor."""
        given = dict(parts.config or {})
        vision = _changed(_vision_config(parts), given.pop("vision_config", None), "model.config.vision_config")
        text_given = dict(given.pop("text_config", None) or {})
        num_words = text_given.pop("vocab_size", None)
        text = _changed(_text_config(parts), text_given, "model.config.text_config")
        tokenizer, image_processor = _tokenizer_of(parts), _image_processor_of(parts.vision_tower)
        side = _side_of(image_processor, parts.vision_tower)
        usual = _usual(vision, text, tokenizer, side)
        _refuse_other_words(num_words, usual["text_config"]["vocab_size"])
        usual["text_config"]["vocab_size"] = num_words or usual["text_config"]["vocab_size"]
        config = _llava_config(usual, given)
        tower = tower_of(vision)
        _refuse_no_prefix(config, tower)
        processor = LlavaProcessor(
            image_processor,
            tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=tower.prefix_tokens,
            chat_template=tokenizer.chat_template,
        )
        return cls(parts=parts, vision=vision, text=text, config=config, processor=processor)

    @property
    def name(self) -> str:
        """The parts with those changes of the architecture alone that change something."""
        if not self.parts.config:
            return self.parts.name
        unchanged = json.loads(Design.of(replace(self.parts, config=None)).config.to_json_string(use_diff=False))
        return replace(self.parts, config=_difference(self.parts.config, unchanged) or None).name


def _usual(vision: Any, text: Any, tokenizer: Any, side: int) -> dict[str, Any]:
    """The fields of a Llava of these parts."""
    tower = tower_of(vision)
    registers = getattr(vision, "num_register_tokens", 0)
    words = max(text.vocab_size, 1 + max(tokenizer.get_vocab().values()))
    return {
        "vision_config": _plain(vision),
        "text_config": {**_plain(text), "vocab_size": words},
        "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE_TAG),
        "image_seq_length": (side // vision.patch_size) ** 2,
        "vision_feature_layer": FEATURE_LAYER,
        "vision_feature_select_strategy": "default" if tower.prefix_tokens - registers else "full",
        "tie_word_embeddings": bool(getattr(text, "tie_word_embeddings", False)),
        **({} if side == vision.image_size else {PICTURE_PX: side}),
    }


def _plain(config: Any) -> dict[str, Any]:
    """A config without the folder that it was read from."""
    return {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "dtype")}


def _refuse_other_words(given: Any, needed: int) -> None:
    if given is not None and (not isinstance(given, int) or given < needed):
        raise ConfigError(
            f"vocab_size is {given}",
            where="model.config.text_config",
            why=f"the language model and {IMAGE_TAG} take {needed} words",
            fix=f"leave it out, or give {needed} or more",
        )


def _refuse_no_prefix(config: LlavaConfig, tower: Tower) -> None:
    if config.vision_feature_select_strategy == "default" and tower.prefix_tokens == 0:
        raise ConfigError(
            "vision_feature_select_strategy is 'default'",
            where="model.config",
            why=f"it leaves out the first token, which is a patch in a {tower.config}",
            fix="leave it out, or write full",
        )


def _llava_config(usual: Mapping[str, Any], given: Mapping[str, Any]) -> LlavaConfig:
    model_type = given.get("model_type", "llava")
    if model_type != "llava":
        why = "a model from parts is a Llava"
        raise ConfigError(
            f"model_type is '{model_type}'", where="model.config", why=why, fix="write llava, or name a base"
        )
    changes = {key: value for key, value in given.items() if key not in BOOKKEEPING}
    if "image_token_id" in changes:
        changes["image_token_index"] = changes.pop("image_token_id")
    _known(changes, {*LlavaConfig().to_dict(), *DERIVED}, "model.config")
    registers = usual["vision_config"].get("num_register_tokens", 0)
    derived = {REMEMBERED: registers or None, PICTURE_PX: None, **usual}
    for key in DERIVED:
        if key in changes and changes.pop(key) != derived[key]:
            why, fix = f"these parts make it {derived[key]}", "leave it out"
            raise ConfigError(f"{key} is {given.get(key)}", where="model.config", why=why, fix=fix)
    try:
        return LlavaConfig(**{**usual, **changes})
    except FAILURES as error:
        raise ConfigError("no such architecture", where="model.config", why=reason(error), fix="correct it") from None


def _difference(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``given`` is not so in ``own`` already."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        inner = own.get(key)
        if key in BOOKKEEPING or key in DERIVED or value == inner:
            continue
        found[key] = _difference(value, inner) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return {key: value for key, value in found.items() if value != {}}


def architecture_of(parts: Parts) -> LlavaConfig:
    """The config that a model of these parts will have; no weight is read."""
    config = Design.of(parts).config
    registers = getattr(config.vision_config, "num_register_tokens", 0)
    if registers:
        setattr(config, REMEMBERED, registers)
    return config
