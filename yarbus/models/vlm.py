"""A VLM seen as four places: vision tower, projector, language model, head.

``Family`` and ``Tower`` are data: they say where a library keeps its parts. ``VLM`` reads them
for one model. A family is looked up by the class name of the model's config, a tower by the class
name of its vision config.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yarbus.core.errors import ConfigError
from yarbus.core.table import Table

Layout = Literal["images tokens dim", "total dim"]


@dataclass(frozen=True, kw_only=True)
class ImageUnits:
    """What the images of one forward look like to the tower and to the language model."""

    tower_lengths: Tensor | None
    """[images] tokens per image in a packed tower; None where each image has its own row."""
    projector_lengths: Tensor | None
    """[images] rows per image that leave a packed projector; None where each image has its own row."""
    placeholders: Tensor
    """[images] image tokens in the language model's sequence."""


def tower_output(config: Any) -> None:
    """The projector reads what the tower returns, not one of its hidden states."""
    return


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
    image_tokens: Callable[[Any, int], int] | None = None
    """(config, the tower's prefix tokens) -> image tokens of every image, in families where another number of them
    works as well: all images take the same, each has a row of its own in the projector, and positions only count.
    None where a method may not change it."""
    language_blocks: str = "layers"
    """Path of the list of blocks, below the language model."""
    final_norm: str = "norm"
    """Path of the norm behind the blocks, below the language model; it takes the hidden states alone."""
    processor: str | None = None
    """``module:class`` to build where the library's processor needs torchvision."""


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
    """Attribute of the tower's config that names the activation."""
    norms: tuple[str, ...]
    """The block's normalisations."""
    attention: tuple[str, ...]
    """Linear layers of the block's attention: (query, key, value, output), or (all three in one, output)."""
    num_heads: str = "num_attention_heads"
    """Attribute of the tower's config that says how many attention heads a block has."""
    prefix_tokens: int = 0
    """Tokens before the patches (class token, registers)."""
    layout: Layout = "images tokens dim"
    """Axes of the tokens in a block: a row per image, or all images packed into one row (``total dim``)."""
    dead_tail: tuple[str, ...] = ()
    """Modules behind the blocks that an intermediate ``feature_layer`` never reads, where the model has them."""

    @property
    def attention_module(self) -> str:
        """Path of the module that holds the attention's linear layers."""
        return self.attention[-1].rpartition(".")[0]


FAMILIES = Table(
    "model family",
    {
        "LlavaConfig": "yarbus.models.families.llava:LLAVA",
        "Qwen2_5_VLConfig": "yarbus.models.families.qwen2_5_vl:QWEN2_5_VL",
    },
)
TOWERS = Table(
    "vision tower",
    {
        "CLIPVisionConfig": "yarbus.models.towers.clip:CLIP",
        "Qwen2_5_VLVisionConfig": "yarbus.models.towers.qwen2_5_vl:QWEN2_5_VL",
    },
)


def declare(entry: Family | Tower) -> None:
    """Makes a family or tower of your own known, under the class name of its config."""
    (FAMILIES if isinstance(entry, Family) else TOWERS).add(entry.config, entry)


def _lookup(table: Table, config: object) -> Any:
    name = type(config).__name__
    if name not in table:
        kind = "Family" if table is FAMILIES else "Tower"
        raise ConfigError(
            f"no {table.kind} for '{name}'",
            why=f"supported: {', '.join(sorted(table))}",
            fix=f"declare it: yarbus.models.vlm.declare({kind}(config='{name}', ...))",
        )
    return table[name]


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
        config = model.config
        family = _lookup(FAMILIES, config)
        vlm = cls(model, family, _lookup(TOWERS, config.vision_config))
        for path, what in ((family.vision_tower, "vision tower"), (family.projector, "projector")):
            _part(vlm.base_model, path, what)
        return vlm

    @property
    def config(self) -> Any:
        return self.model.config

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
        layers = self.family.feature_layer(self.config)
        return self.vision_dim * (len(layers) if isinstance(layers, Sequence) else 1)

    @property
    def vision_dim(self) -> int:
        return self.config.vision_config.hidden_size

    @property
    def num_heads(self) -> int:
        """Attention heads of a vision block."""
        return getattr(self.config.vision_config, self.tower.num_heads)

    @property
    def activation(self) -> str:
        """Name of the tower's activation, as transformers' ``ACT2FN`` knows it."""
        return getattr(self.config.vision_config, self.tower.activation)

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
        dead = self.blocks()[self.num_executed() :]
        if self.family.feature_layer(self.config) is not None:
            modules = dict(self.vision_tower.named_modules())
            dead += [modules[path] for path in self.tower.dead_tail if path in modules]
        return dead

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
            mine -= {id(parameter) for parameter in self.projector.parameters()}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in mine}

    def dead_parameters(self) -> set[int]:
        """``id`` of each parameter that never receives a gradient."""
        return {id(parameter) for module in self.dead_modules() for parameter in module.parameters()}

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
