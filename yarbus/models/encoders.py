"""Further vision encoders beside the base's tower: frozen, in eval mode, each with its own image processor.

An encoder is a bare vision model that ``TOWERS`` knows, or the vision half of a model with words, such as a whole CLIP.
It gives the patches of each image, without class token and registers. Its weights never train and are in no adapter.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.encoder_inputs import PLACE
from yarbus.models.feature_cache import FeatureCache
from yarbus.models.fingerprint import fingerprint
from yarbus.models.pretrained import encoder_without_weights, identity_of, read_config, read_encoder
from yarbus.models.vlm import VLM, Tower, tower_of

BASE = "base"
"""The name of the base's own tower among encoders."""
FOLDER = "vision_encoders"
"""Folder of an adapter or a full model with what encoders need of files."""
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class EncoderSpec:
    """One further encoder as a recipe names it."""

    path: str
    """Hub id, folder or ``plug-in:path``."""
    layer: int | None = None
    """Which hidden state is read: 0 is what the first block is handed, -1 what the last one returns, before any norm;
    None is the tower's own choice (``Tower.alone``)."""

    def written(self) -> str | dict[str, Any]:
        """As recipes and adapters write it."""
        return self.path if self.layer is None else {"path": self.path, "layer": self.layer}


def specs_of(encoders: Mapping[str, Any] | None) -> dict[str, EncoderSpec]:
    """Name -> spec in the order of names, from ``{name: path}`` or ``{name: {path: ..., layer: ...}}``.

    The order decides which number of a router belongs to which encoder, and JSON and YAML keep none.
    """
    specs = {}
    for name, entry in sorted((encoders or {}).items()):
        # The name becomes a keyword (context_pixel_values_NAME) and an entry of a ModuleDict.
        if not _NAME.fullmatch(name) or name == BASE or hasattr(nn.ModuleDict, name):
            raise ConfigError(
                f"an encoder cannot be called '{name}'",
                why=f"'{BASE}' is the base's own tower" if name == BASE else "it names a keyword and a module",
                fix="use small letters, digits and single underscores, such as siglip or dino_2",
            )
        options: dict[str, Any] = {"path": entry} if isinstance(entry, str) else dict(entry)
        path, layer = options.pop("path", None), options.pop("layer", None)
        is_whole = layer is None or (isinstance(layer, int) and not isinstance(layer, bool))
        if options or not isinstance(path, str) or not path or not is_whole:
            why = f"it is {entry!r}"
            raise ConfigError(f"encoder '{name}' is not named", why=why, fix="write PATH, or {path: PATH, layer: -2}")
        specs[name] = EncoderSpec(path, layer)
    return specs


class VisionEncoder(nn.Module):
    """A frozen bare vision model in eval mode, whatever its owner is switched to."""

    def __init__(
        self, model: nn.Module, spec: EncoderSpec, image_processor: Any = None, source: str | None = None
    ) -> None:
        """``image_processor``: its own; None where nothing will be shown. ``source``: where it was read, if not at
        ``spec.path`` (an adapter's copy)."""
        super().__init__()
        self.model = model
        self.spec = spec
        self.source = source or spec.path
        self.image_processor = image_processor
        self.tower: Tower = tower_of(model.config)
        self.cache: FeatureCache | None = None
        """Keeps features on disk; each image is then encoded alone, so that what is kept is what would be computed."""
        self._fingerprint: str | None = None
        self._identity: str | None = None
        self._hidden = self._place_of(self.tower.alone if spec.layer is None else spec.layer)
        self._check()
        self.requires_grad_(False)
        self.eval()

    def _blocks(self) -> list[nn.Module]:
        return [block for path in self.tower.blocks for block in self.model.get_submodule(path)]  # type: ignore[union-attr]

    def _place_of(self, layer: int | None) -> int | None:
        """Number of the block whose input is read; that of blocks for the last one's output; None: what it returns."""
        num_blocks = len(self._blocks())
        if layer is None:
            return None
        place = layer if layer >= 0 else num_blocks + 1 + layer
        if not 0 <= place <= num_blocks:
            raise ConfigError(
                f"encoder {self.spec.path} has no layer {layer}",
                why=f"it has {num_blocks} blocks",
                fix=f"choose a layer from {-num_blocks - 1} to {num_blocks}",
            )
        return place

    def _check(self) -> None:
        name, needs = type(self.model).__name__, inspect.signature(self.model.forward).parameters.values()
        more = [one.name for one in needs if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
        if self.tower.layout != "images tokens dim" or set(more) - {"pixel_values"}:
            packs = f"its tokens are [{self.tower.layout}]"
            raise ConfigError(
                f"{name} cannot be a further encoder",
                where=self.spec.path,
                why=packs if self.tower.layout != "images tokens dim" else f"its forward needs {', '.join(more)}",
                fix="choose an encoder that gives each image a row of its own: CLIP, SigLIP, DINOv2 or DINOv3",
            )

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Stays in eval mode."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "VisionEncoder":
        self._fingerprint = self._identity = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._fingerprint = self._identity = None
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def dim(self) -> int:
        """Width of its features."""
        return getattr(self.model.config, self.tower.dim)

    @property
    def folder(self) -> Path | None:
        """The local folder it came from, if it did."""
        path = Path(resolve(self.source))
        return path if path.is_dir() else None

    @property
    def fingerprint(self) -> str:
        """What tells its weights from another encoder's of the same shape, the same in fp32 or bf16."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model.state_dict())
        return self._fingerprint

    @property
    def identity(self) -> str:
        """What its numbers hang on besides the pixels, to the bit."""
        if self._identity is None:
            self._identity = identity_of(self.model)
        return self._identity

    @torch.no_grad()
    def forward(self, pixel_values: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images tokens dim"]:
        """The patches of each image. ``pixel_values``: normalised by its own image processor."""
        pixel_values = pixel_values.to(next(self.model.parameters()).dtype)
        if self.cache is None:
            return self._encode(pixel_values)
        found: dict[str, Tensor] = {}
        keys = [self._key(pixels) for pixels in pixel_values]
        for key, pixels in zip(keys, pixel_values, strict=True):
            if key not in found:
                kept = self.cache.get(key)
                found[key] = self._encode(pixels[None])[0] if kept is None else kept.to(pixels.device)
                if kept is None:
                    self.cache.put(key, found[key])
        return torch.stack([found[key] for key in keys])

    def _encode(self, pixel_values: Tensor) -> Tensor:
        if self._hidden is None:
            features = self.model(pixel_values=pixel_values).last_hidden_state
        else:
            features = self._hidden_state(pixel_values, self._hidden)
        return features[:, self.tower.prefix_tokens :].detach()

    def _hidden_state(self, pixel_values: Tensor, place: int) -> Tensor:
        """One hidden state, without those before it being kept."""
        heard: list[Tensor] = []

        def before(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            heard.append(args[0] if args else kwargs["hidden_states"])

        def after(block: nn.Module, args: tuple, output: Any) -> None:
            heard.append(output[0] if isinstance(output, tuple) else output)

        blocks = self._blocks()
        if place < len(blocks):
            handle = blocks[place].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = blocks[-1].register_forward_hook(after)
        try:
            self.model(pixel_values=pixel_values)
        finally:
            handle.remove()
        return heard[0]

    def _key(self, pixels: Tensor) -> str:
        """What features of one image depend on: encoder, layer, precision, kind of device, pixels."""
        kind = pixels.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else pixels.dtype
        facts = (self.identity, self._hidden, self.tower.prefix_tokens, pixels.dtype, precision, kind, pixels.shape)
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(pixels.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load_encoder(name: str, spec: EncoderSpec, vlm: VLM, source: str | None = None) -> VisionEncoder:
    """An encoder with its image processor, in the precision and on the device of the base's tower.

    For a model on the meta device only its config is read. ``source``: read it from there instead of ``spec.path``.
    """
    what, path = f"vision encoder '{name}'", resolve(source or spec.path)
    like = next(vlm.vision_tower.parameters())
    config = read_config(path, what, spec.path)
    config = getattr(config, "vision_config", config)
    tower_of(config)
    if like.device.type == "meta":
        with like.device:
            return VisionEncoder(encoder_without_weights(config, what, spec.path), spec, source=source)
    model, image_processor = read_encoder(path, config, like.dtype, what, spec.path)
    return VisionEncoder(model.to(like.device), spec, image_processor, source)


def encoder_from_config(spec: EncoderSpec, config: Mapping[str, Any]) -> VisionEncoder:
    """An encoder without its weights, for a loader that brings them."""
    return VisionEncoder(AutoModel.from_config(AutoConfig.for_model(**config), trust_remote_code=False), spec)


def encoders_of(base_model: nn.Module) -> dict[str, VisionEncoder]:
    """The base model's further encoders by name, in order; empty where it has none."""
    held = getattr(base_model, PLACE, None)
    return {} if held is None else dict(held.items())
