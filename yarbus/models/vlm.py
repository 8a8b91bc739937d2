"""A VLM seen as four places: vision tower, projector, language model, head.

``Family`` and ``Tower`` are data: they say where a library keeps its parts. ``VLM`` reads them
for one model. A family is looked up by the class name of the model's config, a tower by the class
name of its vision config.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yarbus.core.errors import ConfigError
from yarbus.core.table import Table
from yarbus.models.families.pictures import fixed_size

Layout = Literal["images tokens dim", "images tiles dim", "total dim"]
"""Axes of the tokens in a block: a row of patches per image; a row of several tiles' patches per image, of which the
tower masks some; or all images packed into one row, with or without an axis of one before it."""


@dataclass(frozen=True, kw_only=True)
class ImageUnits:
    """What the images of one forward look like to the tower and to the language model."""

    tower_lengths: Tensor | None
    """[images] tokens per image in a packed tower; None where each image has its own row."""
    projector_lengths: Tensor | None
    """[images] rows per image that leave a packed projector; None where each image has its own row."""
    placeholders: Tensor
    """[images] image tokens in the language model's sequence; of a picture cut into tiles those of all its tiles."""
    tiles: Tensor | None = None
    """[pictures] images that a picture is cut into, where ``placeholders`` are told by picture; else None."""
    rows: Tensor | None = None
    """[images] row of the batch, in order, where the shape of the pixels says it; None where the image tokens do."""


def tower_output(config: Any) -> None:
    """The projector reads what the tower returns, not one of its hidden states."""
    return


def same_for_all(config: Any) -> Mapping[str, Any]:
    """No field of the tower depends on its config."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family of models keeps its parts. Paths are below the base model (``model.model``)."""

    config: str
    """Class name of the model's config."""
    vision_tower: str
    """Path of the vision tower."""
    projector: str
    """Path of the projector; it may lie inside the tower."""
    language_model: str
    """Path of the language model."""
    units: Callable[[Any, Mapping[str, Any], int], ImageUnits]
    """(config, forward's keyword arguments, placeholders in the batch) -> the batch's images."""
    feature_layer: Callable[[Any], int | Sequence[int] | None] = tower_output
    """config -> index into the tower's ``hidden_states`` that the projector reads; None is the tower's output."""
    image_tokens: Callable[[Any, int], int | None] | None = None
    """(config, the tower's prefix tokens) -> image tokens of every image, in families where another number of them
    works as well: all images take the same, each has a row of its own in the projector, and positions only count.
    None where a method may not change it."""
    feature_dim: Callable[[Any], int] | None = None
    """config -> width of what the projector is handed, where that is not the tower's width times its feature layers."""
    beside_projector: tuple[str, ...] = ()
    """Modules and parameters below the base model that belong to the projector though they lie beside it: vectors
    between rows of tokens, projectors of what earlier blocks have seen."""
    cross_blocks: Callable[[Any], Sequence[int]] | None = None
    """config -> indices of the language blocks that look at images, and do not run on words alone; None where images
    have their tokens in the language model's sequence."""
    images_are_embeddings: bool = True
    """Whether embeddings in a sequence that is read causally are all that the language model is told of pictures; not
    where a picture's tokens look at each other both ways, or where deeper blocks are handed features of their own."""
    vision_config: str = "vision_config"
    """Attribute of the config that holds the tower's."""
    language_blocks: str = "layers"
    """Path of the list of blocks, below the language model."""
    final_norm: str = "norm"
    """Path of the norm behind the blocks, below the language model; it takes the hidden states alone."""
    processor: str | None = None
    """``module:class`` to build where the library's processor needs torchvision."""
    pictures: Callable[[Any, int, int | None], tuple[dict[str, Tensor], int | None]] = fixed_size
    """(config, number, side in pixels) -> the forward's keyword arguments of pictures that show nothing, for
    ``yarbus plan`` and for dummies, and the image tokens of one, None where the family's own count holds."""

    @property
    def cross_attends(self) -> bool:
        """Whether the language model looks at images in blocks of its own."""
        return self.cross_blocks is not None


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Where a vision tower keeps its parts. Paths of ``blocks`` are below the tower, the rest below a block."""

    config: str
    """Class name of the tower's config."""
    blocks: tuple[str, ...]
    """Module lists of blocks, in the order in which tokens pass them."""
    feed_forward: str
    """The block's feed-forward network: one tensor in, one out."""
    linears: tuple[str, ...]
    """Linear layers of the feed-forward network: (up, down), or (gate, up, down) where it is gated."""
    activation: str
    """Attribute of the tower's config that names the activation, or its name where the config has no such attribute."""
    norms: tuple[str, ...]
    """The block's normalisations."""
    attention: tuple[str, ...]
    """Linear layers of the block's attention: (query, key, value, output), or (all three in one, output)."""
    dim: str = "hidden_size"
    """Attribute of the tower's config that says how wide its tokens are."""
    num_heads: str = "num_attention_heads"
    """Attribute of the tower's config that says how many attention heads a block has."""
    prefix_tokens: int = 0
    """Tokens before the patches (class token, registers)."""
    layout: Layout = "images tokens dim"
    """Axes of the tokens in a block."""
    dead_tail: tuple[str, ...] = ()
    """Modules behind the blocks that no ``feature_layer`` reads, not even the last one, where the model has them."""
    unused: tuple[str, ...] = ()
    """Modules and parameters that no family reads, where the model has them: a pooling head, a token for masks."""
    processor: str | None = None
    """As a family's, where it is the tower whose processor needs torchvision."""
    alone: int | None = None
    """Which hidden state is read where the tower stands beside a base's own as a further encoder: -2 is the input of
    its last block; None is what it returns."""
    varies: Callable[[Any], Mapping[str, Any]] = same_for_all
    """The tower's config -> fields that depend on it, with the values they have there instead of those above."""

    @property
    def attention_module(self) -> str:
        """Path of the module that holds the attention's linear layers."""
        return self.attention[-1].rpartition(".")[0]

    def of(self, config: Any) -> "Tower":
        """The tower as it is with this config: what ``varies`` says is in place."""
        return replace(self, **self.varies(config))


FAMILIES = Table(
    "model family",
    {
        "Gemma3Config": "yarbus.models.families.gemma3:GEMMA3",
        "Idefics3Config": "yarbus.models.families.idefics3:IDEFICS3",
        "InternVLConfig": "yarbus.models.families.internvl:INTERNVL",
        "LlavaConfig": "yarbus.models.families.llava:LLAVA",
        "LlavaNextConfig": "yarbus.models.families.llava_next:LLAVA_NEXT",
        "LlavaOnevisionConfig": "yarbus.models.families.llava_onevision:LLAVA_ONEVISION",
        "Mistral3Config": "yarbus.models.families.mistral3:MISTRAL3",
        "MllamaConfig": "yarbus.models.families.mllama:MLLAMA",
        "Molmo2Config": "yarbus.models.families.molmo2:MOLMO2",
        "PaliGemmaConfig": "yarbus.models.families.paligemma:PALIGEMMA",
        "Qwen2VLConfig": "yarbus.models.families.qwen2_vl:QWEN2_VL",
        "Qwen2_5_VLConfig": "yarbus.models.families.qwen2_5_vl:QWEN2_5_VL",
        "Qwen3VLConfig": "yarbus.models.families.qwen3_vl:QWEN3_VL",
        "SmolVLMConfig": "yarbus.models.families.smolvlm:SMOLVLM",
    },
)
TOWERS = Table(
    "vision tower",
    {
        "CLIPVisionConfig": "yarbus.models.towers.clip:CLIP",
        "CumoVisionConfig": "yarbus.models.towers.cumo:CUMO",
        "DINOv3ViTConfig": "yarbus.models.towers.dinov3:DINOV3",
        "Dinov2Config": "yarbus.models.towers.dinov2:DINOV2",
        "Dinov2WithRegistersConfig": "yarbus.models.towers.dinov2_with_registers:DINOV2_WITH_REGISTERS",
        "Idefics3VisionConfig": "yarbus.models.towers.idefics3:IDEFICS3",
        "InternVLVisionConfig": "yarbus.models.towers.internvl:INTERNVL",
        "MllamaVisionConfig": "yarbus.models.towers.mllama:MLLAMA",
        "Molmo2VisionConfig": "yarbus.models.towers.molmo2:MOLMO2",
        "PixtralVisionConfig": "yarbus.models.towers.pixtral:PIXTRAL",
        "Qwen2VLVisionConfig": "yarbus.models.towers.qwen2_vl:QWEN2_VL",
        "Qwen2_5_VLVisionConfig": "yarbus.models.towers.qwen2_5_vl:QWEN2_5_VL",
        "Qwen3VLVisionConfig": "yarbus.models.towers.qwen3_vl:QWEN3_VL",
        "SiglipVisionConfig": "yarbus.models.towers.siglip:SIGLIP",
        "SmolVLMVisionConfig": "yarbus.models.towers.smolvlm:SMOLVLM",
    },
)
REFUSED = {
    "Siglip2VisionConfig": (
        "its forward needs pixel_attention_mask and spatial_shapes, which no family hands it",
        "take SigLIP2 weights of a fixed resolution, whose config is SiglipVisionConfig",
    ),
}
"""Config of a tower that cannot work -> why, and what to do instead."""


def declare(entry: Family | Tower) -> None:
    """Makes a family or tower of your own known, under the class name of its config."""
    (FAMILIES if isinstance(entry, Family) else TOWERS).add(entry.config, entry)


def _children(module: nn.Module) -> str:
    return ", ".join(f"{name} ({type(child).__name__})" for name, child in module.named_children()) or "nothing"


def _block_lists(tower: nn.Module) -> str:
    lists = {
        f"{path} ({len(module)} x {type(module[0]).__name__}: {', '.join(dict(module[0].named_children()))})"
        for path, module in tower.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    return ", ".join(sorted(lists)) or _children(tower)


def _lookup(table: Table, config: object, found: Callable[[], str]) -> Any:
    """The table's entry for a config; where there is none, the error says what the model has instead."""
    name = type(config).__name__
    if name in table:
        return table[name]
    if table is TOWERS and name in REFUSED:
        why, fix = REFUSED[name]
        raise ConfigError(f"'{name}' cannot be the vision tower", why=why, fix=fix)
    kind = "Family" if table is FAMILIES else "Tower"
    raise ConfigError(
        f"no {table.kind} for '{name}'",
        why=f"looked for the config's class name; found {found()}; supported: {', '.join(sorted(table))}",
        fix=f"declare it: yarbus.models.vlm.declare({kind}(config='{name}', ...))",
    )


def tower_of(config: Any) -> Tower:
    """The tower that a vision model's config belongs to, as it is with this config."""
    entry: Tower = _lookup(TOWERS, config, lambda: type(config).__name__)
    return entry.of(config)


def _part(owner: nn.Module, path: str, what: str) -> nn.Module:
    try:
        return owner.get_submodule(path)
    except AttributeError as error:
        raise ConfigError(
            f"no {what} at '{path}'",
            where=type(owner).__name__,
            why=str(error),
            fix="correct the path in its Family or Tower",
        ) from None


@dataclass(frozen=True)
class VLM:
    """One model seen through its family and tower. Cheap to make; holds no state of its own."""

    model: nn.Module
    """The top model (``...ForConditionalGeneration``)."""
    family: Family
    tower: Tower

    @classmethod
    def of(cls, model: nn.Module) -> "VLM":
        """The model as parts; a model whose family or tower is not in the tables raises ``ConfigError``."""
        base: nn.Module = model.base_model  # type: ignore[assignment]
        family: Family = _lookup(FAMILIES, model.config, lambda: _children(base))
        tower = _part(base, family.vision_tower, "vision tower")
        _part(base, family.projector, "projector")
        vision_config = getattr(model.config, family.vision_config, None)
        if vision_config is None:
            raise ConfigError(
                f"no vision config at '{family.vision_config}'",
                where=type(model.config).__name__,
                fix="correct vision_config in its Family",
            )
        entry: Tower = _lookup(TOWERS, vision_config, lambda: _block_lists(tower))
        return cls(model, family, entry.of(vision_config))

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def vision_config(self) -> Any:
        """The tower's config."""
        return getattr(self.config, self.family.vision_config)

    @property
    def base_model(self) -> nn.Module:
        """The model below the head: what ``generate`` of 5.23 and TRL call around the top forward."""
        return self.model.base_model

    @property
    def vision_tower(self) -> nn.Module:
        return _part(self.base_model, self.family.vision_tower, "vision tower")

    @property
    def projector(self) -> nn.Module:
        return _part(self.base_model, self.family.projector, "projector")

    @property
    def language_model(self) -> nn.Module:
        return _part(self.base_model, self.family.language_model, "language model")

    @property
    def language_blocks(self) -> nn.ModuleList:
        return _part(self.language_model, self.family.language_blocks, "block list")  # type: ignore[return-value]

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last language block and the head."""
        return _part(self.language_model, self.family.final_norm, "final norm")

    @property
    def lm_head(self) -> nn.Module:
        """The linear layer that makes logits of hidden states; it may share its weight with the embedding table."""
        return self.model.get_output_embeddings()

    @property
    def language_dim(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def feature_dim(self) -> int:
        """Width of the features that the projector is handed: those of several layers stand side by side."""
        if self.family.feature_dim is not None:
            return self.family.feature_dim(self.config)
        layers = self.family.feature_layer(self.config)
        return self.vision_dim * (len(layers) if isinstance(layers, Sequence) else 1)

    @property
    def vision_dim(self) -> int:
        """Width of the tower's tokens."""
        return getattr(self.vision_config, self.tower.dim)

    @property
    def num_heads(self) -> int:
        """Attention heads of a vision block."""
        return getattr(self.vision_config, self.tower.num_heads)

    @property
    def activation(self) -> str:
        """Name of the tower's activation, as transformers' ``ACT2FN`` knows it."""
        return getattr(self.vision_config, self.tower.activation, self.tower.activation)

    def blocks(self) -> list[nn.Module]:
        """All vision blocks in order."""
        return [block for path in self.tower.blocks for block in _part(self.vision_tower, path, "block list")]

    def block_paths(self) -> list[str]:
        """Module path of each vision block from the top model."""
        names = {id(module): name for name, module in self.model.named_modules()}
        return [names[id(block)] for block in self.blocks()]

    def num_executed(self) -> int:
        """How many blocks, from the first on, have an output that reaches the projector.

        LLaVA reads ``hidden_states[-2]``, the output of the last block but one, so its last block is dead.
        """
        layer = self.family.feature_layer(self.config)
        num_blocks = len(self.blocks())
        if layer is None:
            return num_blocks
        layers = [layer] if isinstance(layer, int) else layer
        return max(index if index >= 0 else num_blocks + 1 + index for index in layers)

    def executed_blocks(self, first: int | None = None, last: int | None = None) -> dict[int, nn.Module]:
        """Blocks ``first`` to ``last``, both included, by index.

        None means the upper half of the executed blocks: first = floor(executed / 2), last = executed - 1.
        """
        executed = self.num_executed()
        first = executed // 2 if first is None else first
        last = executed - 1 if last is None else last
        if not 0 <= first <= last < executed:
            raise ConfigError(
                f"blocks {first} to {last} are not all executed",
                why=f"this tower executes blocks 0 to {executed - 1} of {len(self.blocks())}",
                fix=f"choose 0 <= first_block <= last_block <= {executed - 1}",
            )
        return dict(list(enumerate(self.blocks()))[first : last + 1])

    def dead_modules(self) -> list[nn.Module]:
        """Tower modules that run for nothing: what they compute never reaches the projector."""
        modules = dict(self.vision_tower.named_modules())
        return self.blocks()[self.num_executed() :] + [modules[path] for path in self._dead_paths() if path in modules]

    def _dead_paths(self) -> tuple[str, ...]:
        """Below the tower; modules and parameters."""
        behind = () if self.family.feature_layer(self.config) is None else self.tower.dead_tail
        return (*behind, *self.tower.unused)

    def place_modules(self, place: str) -> list[nn.Module]:
        """The modules that make up a place. Qwen keeps its projector inside the tower: it belongs to the projector."""
        if place == "vision":
            return [self.vision_tower]
        if place == "projector":
            return [self.projector]
        head = self.model.get_output_embeddings()
        return [self.language_model] + ([head] if head is not None else []) if place == "language" else []

    def place_parameters(self, place: str) -> dict[str, nn.Parameter]:
        """Parameters of a place by name from the top model, shared ones once."""
        mine = {id(parameter) for module in self.place_modules(place) for parameter in module.parameters()}
        if place == "vision":
            mine -= {id(parameter) for parameter in self.projector.parameters()} | self._beside_projector()
        if place == "projector":
            mine |= self._beside_projector()
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in mine}

    def _beside_projector(self) -> set[int]:
        paths = tuple(f"{path}." for path in self.family.beside_projector)
        named = self.base_model.named_parameters()
        return {id(parameter) for name, parameter in named if f"{name}.".startswith(paths)}

    def dead_parameters(self) -> set[int]:
        """``id`` of each parameter that never receives a gradient."""
        alone = dict(self.vision_tower.named_parameters())
        dead = {id(alone[path]) for path in self._dead_paths() if path in alone}
        return dead | {id(parameter) for module in self.dead_modules() for parameter in module.parameters()}

    def feed_forward_linears(self, block: nn.Module) -> Iterator[nn.Linear]:
        """The linear layers of a block's feed-forward network, in the tower's order."""
        feed_forward = _part(block, self.tower.feed_forward, "feed-forward network")
        for name in self.tower.linears:
            yield _part(feed_forward, name, "linear layer")  # type: ignore[misc]

    @property
    def image_token_id(self) -> int:
        return self.config.image_token_id

    @property
    def image_tokens(self) -> int | None:
        """Image tokens of every image; None in families where their number may not be changed."""
        count = self.family.image_tokens
        return None if count is None else count(self.config, self.tower.prefix_tokens)


def constant_lengths(num_images: int, total: int, device: torch.device) -> Tensor:
    """[images] ``total`` placeholders shared out evenly among images of one size."""
    if num_images and total % num_images:
        raise ConfigError(
            f"{total} image tokens for {num_images} images",
            why="every image of this family takes the same number of tokens",
            fix="give one image placeholder per image, and do not cut the prompt inside an image",
        )
    return torch.full((num_images,), total // num_images if num_images else 0, device=device)
