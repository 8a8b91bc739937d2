"""A vision encoder by itself, with its text side where it has one, by hub name, folder or ``plug-in:path``.

It is what transformers' ``AutoModel`` makes of the name: a vision model (DINOv2, the vision half of CLIP), or a pair of
both sides (CLIP, SigLIP) that gives one vector per picture and per text. Nothing is attached to it and nothing trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.pretrained import read_config, read_encoder
from yarbus.models.text_encoder import read_tokenizer

Feature = Literal["pooled", "patches"]
"""Which vector of a picture: the model's own summary (of a pair, the one that is compared with texts), or the mean of
its last hidden states at the patches, class token and registers left out: of a CLIP they stand before its last norm,
which is for the class token alone, of SigLIP and DINO behind it."""
OTHERS = "another encoder, such as CLIP, SigLIP or DINOv2"


@dataclass(frozen=True, kw_only=True)
class BareEncoder:
    """The model in evaluation mode and fp32, with what prepares its inputs."""

    name: str
    model: Any
    image_processor: Any
    tokenizer: Any = None
    """None without a text side."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def pixels(self, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """The pictures as the model takes them."""
        batch = self.image_processor(images=list(pictures), return_tensors="pt")
        return {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Image.Image], feature: Feature = "pooled") -> Tensor:
        """``[images, dim]`` in fp32."""
        batch = self.pixels(pictures)
        if feature == "patches":
            return self._mean_of_patches(batch)
        pooled = self._pooled(batch)
        if pooled is None:
            fix = f"use the mean of patches (--features patches), or {OTHERS}"
            raise ConfigError(f"{type(self.model).__name__} gives no pooled feature", where=self.name, fix=fix)
        return pooled.float()

    def _pooled(self, batch: dict[str, Tensor]) -> Tensor | None:
        return _vector(self.model.get_image_features(**batch) if has_text_side(self.model) else self.model(**batch))

    def _mean_of_patches(self, batch: dict[str, Tensor]) -> Tensor:
        output = getattr(self.model, "vision_model", self.model)(**batch)
        tokens = getattr(output, "last_hidden_state", None)
        if tokens is None:
            why, fix = f"it returns {type(output).__name__}", f"use {OTHERS}"
            raise ConfigError(f"{type(self.model).__name__} shows no tokens", where=self.name, why=why, fix=fix)
        tokens = tokens.float()
        if (mask := batch.get("pixel_attention_mask")) is not None:  # SigLIP 2 with pictures of any shape
            weights = mask[..., None].float()
            return (tokens * weights).sum(1) / weights.sum(1)
        config = getattr(self.model.config, "vision_config", self.model.config)
        patch = getattr(config, "patch_size", None)
        height, width = batch["pixel_values"].shape[-2:]
        count = (height // patch) * (width // patch) if isinstance(patch, int) else 0
        # Whatever is more than patches stands in front: class token, registers.
        if not 0 < count <= tokens.shape[1] or tokens.ndim != 3:
            why = f"{tuple(tokens.shape)} tokens for pictures of {height} x {width} px and patches of {patch}"
            fix = "use the pooled feature (--features pooled)"
            raise ConfigError("cannot tell patches from other tokens", where=self.name, why=why, fix=fix)
        return tokens[:, -count:].mean(1)

    def text_tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts as the text side takes them; what is longer than it can read is cut."""
        config = getattr(self.model.config, "text_config", self.model.config)
        options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        if (limit := getattr(config, "max_position_embeddings", None)) is not None:
            options["max_length"] = min(limit, self.tokenizer.model_max_length)
        # SigLIP reads its last position, which in training was padding, and attended to it.
        is_siglip = str(self.model.config.model_type).startswith("siglip")
        if is_siglip:
            options["padding"] = "max_length"
        tokens = self.tokenizer(list(texts), **options)
        wanted = ("input_ids",) if is_siglip else ("input_ids", "attention_mask", "token_type_ids")
        return {name: tokens[name].to(self.device) for name in wanted if name in tokens}

    @torch.no_grad()
    def text_features(self, tokens: dict[str, Tensor]) -> Tensor:
        """``[texts, dim]`` in fp32, comparable with pooled features of pictures."""
        found = _vector(self.model.get_text_features(**tokens))
        assert found is not None, "see widths"
        return found.float()

    @torch.no_grad()
    def widths(self) -> tuple[int | None, int | None]:
        """Numbers in the vector of a picture and in that of a text; None where there are several vectors, or none."""
        picture = self._pooled(self.pixels([Image.new("RGB", (64, 48))]))
        text = None if self.tokenizer is None else _vector(self.model.get_text_features(**self.text_tokens(["a"])))
        return tuple(None if one is None else one.shape[-1] for one in (picture, text))  # type: ignore[return-value]


def _vector(output: Any) -> Tensor | None:
    """One vector per row, which the library gives bare or in a larger output; None where it gives several."""
    found = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    return found if found is not None and found.ndim == 2 else None


def has_text_side(model: nn.Module) -> bool:
    """Whether it has a method for pictures and one for texts; ``BareEncoder.widths`` says what they give."""
    return all(callable(getattr(model, name, None)) for name in ("get_image_features", "get_text_features"))


def load_bare_encoder(name: str) -> BareEncoder:
    """The encoder of that name; raises ``ConfigError`` with what is missing."""
    what, path = "encoder", resolve(name)
    model, image_processor = read_encoder(path, read_config(path, what, name), torch.float32, what, name)
    tokenizer = _tokenizer(path, name) if has_text_side(model) else None
    return BareEncoder(name=name, model=model.eval(), image_processor=image_processor, tokenizer=tokenizer)


def _tokenizer(path: str | Path, name: str) -> Any:
    try:
        return read_tokenizer(path)
    except ValueError as error:
        fix = "give a copy with its tokenizer"
        raise ConfigError("cannot load the tokenizer of encoder", where=name, why=str(error), fix=fix) from None
