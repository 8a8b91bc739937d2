"""A model from parts: a bare vision encoder and a language model of text alone, as a Llava with a new projector.

Every tensor comes from the two checkpoints, and one that is missing there is an error, with two exceptions. The
projector is new: its layers are drawn under a seed as torch draws a linear layer (uniform, the narrower the wider its
input), so it must be trained before anything else can be. And where the tokenizer has no ``<image>``, embedding table
and lm_head may need a row more: it is the mean of their rows. Nothing reads it, as features stand where the token is,
and as an answer it is no likelier than the mean word.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from yarbus.core.errors import ConfigError
from yarbus.core.parts import Parts
from yarbus.core.plugins import resolve
from yarbus.models.design import Design
from yarbus.models.families.llava import LLAVA
from yarbus.models.pretrained import FAILURES, read_weights, reason
from yarbus.models.question import IMAGE_TAG
from yarbus.models.registers import drop_registers
from yarbus.models.vlm import VLM

PROBED = 8
"""Tokens on which the language model must compute the same by itself and inside."""
CLOSE = 1e-4
"""Largest difference of logits, of the largest logit: sums may be taken in another order, a scale or a cap is more."""


def _read(auto: Any, name: str, config: Any, dtype: torch.dtype, what: str) -> Any:
    """One of the two checkpoints; a tensor that is missing is an error."""
    try:
        model, report = read_weights(auto, resolve(name), config, dtype)
    except FAILURES as error:
        fix = (
            "give a hub name, or a folder with plain safetensors; sizes in model.config must be those of the checkpoint"
        )
        raise ConfigError(f"cannot load the {what}", where=name, why=reason(error), fix=fix) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        why = f"the first is {missing[0]}"
        raise ConfigError(f"the {what} lacks {len(missing)} tensors", where=name, why=why, fix="use a complete copy")
    return model


def _check_blocks(language: Any, name: str) -> None:
    """Raises where methods would not find the language model's blocks."""
    paths = (LLAVA.language_blocks, LLAVA.final_norm)
    try:
        for path in paths:
            language.base_model.get_submodule(path)
    except AttributeError:
        raise ConfigError(
            f"{type(language).__name__} cannot be the language model of a Llava",
            where=name,
            why=f"its {type(language.base_model).__name__} has no '{paths[0]}' and '{paths[1]}'",
            fix="choose one of Llama's build, such as Llama, Qwen or Mistral",
        ) from None


def _with_words(language: Any, number: int) -> None:
    """As many rows in embedding table and lm_head; a new one is the mean of those that were there."""
    rows = language.get_input_embeddings().num_embeddings
    if number <= rows:
        return
    with torch.random.fork_rng(devices=[]):  # the library draws them first
        language.resize_token_embeddings(number, mean_resizing=False)
    with torch.no_grad():
        for table in (language.get_input_embeddings(), language.get_output_embeddings()):
            table.weight[rows:] = table.weight[:rows].float().mean(0).to(table.weight.dtype)


def _new_projector(config: LlavaConfig, seed: int, dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaMultiModalProjector(config).to(dtype)


def _assembled(design: Design, tower: Any, language: Any, dtype: torch.dtype) -> Any:
    """The parts' own tensors in a Llava. What has no place in it, or no tensor, is an error."""
    projector = _new_projector(design.config, design.parts.seed, dtype)
    owners = {
        "model.vision_tower": tower,
        "model.multi_modal_projector": projector,
        "model.language_model": language.base_model,
        "lm_head": language.get_output_embeddings(),
    }
    tensors = {f"{path}.{name}": tensor for path, part in owners.items() for name, tensor in part.state_dict().items()}
    model, report = LlavaForConditionalGeneration.from_pretrained(
        None, config=design.config, state_dict=tensors, dtype=dtype, output_loading_info=True
    )
    wrong = sorted(name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind])
    if wrong:
        raise ConfigError(
            f"{len(wrong)} tensors have no counterpart in a Llava of these parts",
            where=wrong[0],
            why=f"{type(tower).__name__} and {type(language).__name__}",
            fix="choose another tower or language model",
        )
    model.generation_config = copy.deepcopy(language.generation_config)
    _mark_ends(model.generation_config, design.processor.tokenizer)
    return model


def _mark_ends(settings: Any, tokenizer: Any) -> None:
    """Generation stops at the token that ends answers in training, and at those where it stopped before."""
    ends = settings.eos_token_id
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in known:
        known.append(tokenizer.eos_token_id)
    settings.eos_token_id = known[0] if len(known) == 1 else known or None
    settings.pad_token_id = tokenizer.pad_token_id


@torch.no_grad()
def _check_words(model: nn.Module, language: nn.Module, name: str) -> None:
    """Raises where the language model's logits are not those that it gives by itself: a Llava knows no scale or cap."""
    ids = torch.arange(min(PROBED, model.config.text_config.vocab_size))[None]  # type: ignore[union-attr]
    alone, inside = (part.eval()(input_ids=ids).logits.float() for part in (language, model))
    apart = float((alone - inside).abs().max())
    if apart > CLOSE * float(alone.abs().max()):
        raise ConfigError(
            f"{type(language).__name__} cannot be the language model of a Llava",
            where=name,
            why=f"inside, its logits differ by {apart:.3g}: by itself it scales or caps them",
            fix="choose another, such as Llama, Qwen or Mistral",
        )


@torch.no_grad()
def _check_picture(model: Any, processor: LlavaProcessor, name: str) -> None:
    """Raises where a picture gives other features than it has placeholders."""
    batch = processor(images=[Image.new("RGB", (64, 48))], text=IMAGE_TAG, return_tensors="pt")
    pixels: Tensor = batch["pixel_values"].to(next(model.parameters()).dtype)
    fix = "give a tower with the image processor that it was trained with"
    try:
        (features,) = model.get_image_features(pixels, return_dict=True).pooler_output
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError("the vision tower takes no such pictures", where=name, why=reason(error), fix=fix) from None
    placeholders = int((batch["input_ids"] == model.config.image_token_id).sum())
    if not len(features) == placeholders == VLM.of(model).image_tokens:
        why = f"{len(features)} features, {placeholders} placeholders"
        raise ConfigError("a picture and its image tokens disagree", where=name, why=why, fix=fix)


def from_parts(
    vision_tower: str,
    language_model: str,
    *,
    projector: str = "mlp2",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, LlavaProcessor]:
    """A Llava and its processor from a vision encoder and a language model, with a new projector between them.

    Args:
        vision_tower: hub id, folder or ``plug-in:path`` of a tower with a row of tokens per image (CLIP, SigLIP, DINOv2
            with or without registers, DINOv3), or of a whole CLIP or SigLIP.
        language_model: hub id, folder or ``plug-in:path`` of a causal language model of text alone, with its tokenizer.
        projector: ``mlp2``: Linear, GELU, Linear.
        seed: draws the projector's first weights.
        config: fields of the ``LlavaConfig`` that are not to be as the parts have them, ``vision_config`` and
            ``text_config`` with fields of theirs among them: ``{"vision_feature_layer": -1}``.
        dtype: of the weights.

    Raises:
        ConfigError: an unknown projector or architecture, a part that a Llava cannot carry, a tensor that is missing.
    """
    parts = Parts(
        vision_tower=vision_tower, language_model=language_model, projector=projector, seed=seed, config=config
    )
    return build(Design.of(parts), dtype)


def build(design: Design, dtype: torch.dtype = torch.float32) -> tuple[Any, LlavaProcessor]:
    """The model that a design describes, tried once on words and on a picture."""
    parts = design.parts
    tower = _read(AutoModel, parts.vision_tower, design.vision, dtype, "vision tower")
    language = _read(AutoModelForCausalLM, parts.language_model, design.text, dtype, "language model")
    _check_blocks(language, parts.language_model)
    _with_words(language, design.config.text_config.vocab_size)
    model = _assembled(design, tower, language, dtype)
    _check_words(model, language, parts.language_model)
    drop_registers(model, design.processor)
    _check_picture(model, design.processor, parts.vision_tower)
    model.config._name_or_path = design.name
    return model, design.processor
