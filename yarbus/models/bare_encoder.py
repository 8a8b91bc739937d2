"""A vision encoder by itself, with its text side where it has one, by hub name, folder or ``plug-in:path``.

It is what transformers' ``AutoModel`` makes of the name: a vision model (DINOv2, the vision half of CLIP), or a pair of
both sides (CLIP, SigLIP) that gives one vector per picture and per text. Nothing is attached to it and nothing trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.image_processors import load_image_processor

Feature = Literal["pooled", "patches"]
"""Which vector of a picture: the model's own summary (of a pair, the one that is compared with texts), or the mean of
the last norm's patches, class token and registers left out."""
FAILURES = (OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError)


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
        pooled = _vector(self.model.get_image_features(**batch) if has_text_side(self.model) else self.model(**batch))
        if pooled is None:
            fix = "use the mean of patches (--features patches)"
            raise ConfigError(f"{type(self.model).__name__} gives no pooled feature", where=self.name, fix=fix)
        return pooled.float()

    def _mean_of_patches(self, batch: dict[str, Tensor]) -> Tensor:
        vision = getattr(self.model, "vision_model", self.model)
        tokens = vision(**batch).last_hidden_state.float()
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
        assert found is not None
        return found.float()


def _vector(output: Any) -> Tensor | None:
    """One vector per row; the library gives it bare or in a larger output."""
    return output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)


def has_text_side(model: nn.Module) -> bool:
    """Whether it gives comparable vectors of pictures and of texts."""
    return all(callable(getattr(model, name, None)) for name in ("get_image_features", "get_text_features"))


def load_bare_encoder(name: str) -> BareEncoder:
    """The encoder of that name; raises ``ConfigError`` with what is missing."""
    path, fix = resolve(name), "give the name or folder of a vision model with safetensors and preprocessor_config.json"
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        image_processor = load_image_processor(path)
        model, report = AutoModel.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,  # nothing we read is a pickle
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False) if has_text_side(model) else None
    except FAILURES as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError("cannot load encoder", where=name, why=why, fix=fix) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        why = f"it lacks {len(missing)} tensors, the first is {missing[0]}"
        raise ConfigError("cannot load encoder", where=name, why=why, fix="give a complete copy")
    return BareEncoder(name=name, model=model.eval(), image_processor=image_processor, tokenizer=tokenizer)
