"""A batch of words alone runs the eyes on one dummy picture, where somebody waits for them.

Processes that train together wait for each other: DDP for a gradient of every tensor that trains, sharding for each
module's turn to be gathered. A process whose batch has no picture would leave the eyes out, and the others would hang
or go on with gradients of their own. So tower and projector run on a picture of which nothing is used: zero times what
they make of it is added to the word embeddings, where the features of real pictures enter. Numbers stay as they are
and every tensor of the eyes gets a gradient of zero, in the same order as on the other processes. Language blocks that
look at pictures themselves (Mllama's) are left out on words; what trains in them gets its zero in the same way.

Alone, a process leaves the eyes out. Where nothing else trains its loss would have no backward: there the word
embeddings ask for a gradient, and the update finds none in any tensor, so that not even weight decay moves the eyes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from yarbus.core.errors import ConfigError
from yarbus.models.consistency import has_past
from yarbus.models.context import by_name, rows_of_images
from yarbus.models.images import ImageMap
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.text_encoder import TextEncoder, TextStates
from yarbus.models.vlm import FAMILIES, Family

STATES = ("last_hidden_state", "hidden_states", "attentions")
"""What the tower returns beside the features; some of it comes from blocks that run for nothing."""


def run_idle_eyes(base_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Pre-hook of the base model. Knows no model, so that copies stay apart."""
    named = by_name(base_model, args, kwargs)
    if is_needed(base_model, named):
        nothing = _nothing_seen(base_model)
        _change_embeddings(base_model, kwargs, lambda embeddings: embeddings + nothing.to(embeddings.dtype))
    elif _has_no_backward(base_model, named):
        _change_embeddings(base_model, kwargs, _with_gradient)
    return args, kwargs


def _with_gradient(embeddings: Tensor) -> Tensor:
    return embeddings if embeddings.requires_grad else embeddings.detach().requires_grad_()


def _change_embeddings(base_model: nn.Module, kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]) -> None:
    """Changes the word embeddings of this forward."""
    if kwargs.get("inputs_embeds") is not None:
        kwargs["inputs_embeds"] = change(kwargs["inputs_embeds"])
        return

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        handle.remove()
        return change(output)

    handle = base_model.get_input_embeddings().register_forward_hook(hook)  # type: ignore[operator]


def _has_picture(named: Mapping[str, Any]) -> bool:
    if any(named.get(key) is not None for key in ("pixel_values", "pixel_values_videos")):
        return True
    return bool(named.get("mm_encoder_outputs"))  # ``generate`` has encoded them; for words alone it hands on {}


def _trains(base_model: nn.Module) -> bool:
    return base_model.training and torch.is_grad_enabled()


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_needed(base_model: nn.Module, named: Mapping[str, Any]) -> bool:
    """Whether this forward has no picture and is one in which the eyes must run all the same."""
    if _has_picture(named) or not _are_several():
        return False
    return _trains(base_model) or (_is_sharded(base_model) and not has_past(named))


def _is_sharded(base_model: nn.Module) -> bool:
    """Whether the tower must be gathered from all processes: FSDP2, or DeepSpeed's ZeRO-3."""
    tower = base_model.get_submodule(_family(base_model).vision_tower)
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in tower.parameters())


def _has_no_backward(base_model: nn.Module, named: Mapping[str, Any]) -> bool:
    """Whether a loss over these words reaches nothing that trains: in a process alone that trains the eyes alone."""
    if _has_picture(named) or _are_several() or not _trains(base_model):
        return False
    active: set[str] = base_model.context_attachment.active  # type: ignore[union-attr, assignment]
    if not active or not active <= {"vision", "projector"}:
        return False
    language = base_model.get_submodule(_family(base_model).language_model)
    return not any(parameter.requires_grad for parameter in language.parameters())


def _family(base_model: nn.Module) -> Family:
    return FAMILIES[type(base_model.config).__name__]


def dummy_image(family: Family, config: Any) -> dict[str, Tensor]:
    """The forward's keyword arguments of one picture, in which no two pixels are alike.

    Raises ``ConfigError`` where the family's batches hold more than its ``pictures`` say.
    """
    try:
        picture, _ = family.pictures(config, 1, 1)
        family.units(config, picture, 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "a process has a batch without pictures, and others wait for its vision tower",
            where=family.config,
            why=f"no dummy picture will do ({error!r})",
            fix="say in its Family what pictures look like, or give every batch a picture",
        ) from None
    return {name: gradation(*value.shape) if value.is_floating_point() else value for name, value in picture.items()}


def gradation(*shape: int) -> Tensor:
    """Evenly spaced numbers from -1 to 1: constant ones have no variance, which norms divide by."""
    numbers = torch.Size(shape).numel()
    return torch.linspace(-1, 1, numbers).view(shape)


@torch.compiler.disable
def _nothing_seen(base_model: nn.Module) -> Tensor:
    """Zero, made of all features of a dummy picture, and of what trains where words leave blocks out."""
    slot: ContextSlot = base_model.context_attachment.slot  # type: ignore[union-attr, assignment]
    family = _family(base_model)
    left_out = _left_out_on_words(base_model, family)
    tower = next(p for p in base_model.get_submodule(family.vision_tower).parameters() if p.is_floating_point())
    picture = {
        name: value.to(tower.device, tower.dtype if value.is_floating_point() else None)
        for name, value in dummy_image(family, base_model.config).items()
    }
    with slot.holding(_context(base_model, family, picture)), slot.unrecorded():
        features = _features_of(base_model, family, picture)
    nothing = torch.stack([(feature.float() * 0).sum() for feature in features]).sum()
    for parameter in left_out:
        nothing = nothing + (parameter.float() * 0).sum().to(nothing)
    return nothing


def _features_of(base_model: nn.Module, family: Family, picture: Mapping[str, Any]) -> list[Tensor]:
    """What tower and projector make of a picture."""
    if family.cross_attends:  # there the base's forward itself calls them
        tower, projector = (base_model.get_submodule(path) for path in (family.vision_tower, family.projector))
        return [projector(tower(**picture).last_hidden_state)]
    output = base_model.get_image_features(**picture, return_dict=True)  # type: ignore[operator]
    # Before 5.23 some families keep the features in an attribute that is no entry of the output.
    return [feature for name, value in vars(output).items() if name not in STATES for feature in _tensors(value)]


def _left_out_on_words(base_model: nn.Module, family: Family) -> list[nn.Parameter]:
    """What trains in language blocks that run on pictures alone."""
    if family.cross_blocks is None:
        return []
    if _is_sharded(base_model):
        raise ConfigError(
            "a process has a batch without pictures, and others wait for it",
            where=family.config,
            why="language blocks of its own look at pictures; sharded, they must be gathered on all processes at once",
            fix="use DDP, or give every batch a picture",
        )
    blocks = base_model.get_submodule(family.language_model).get_submodule(family.language_blocks)
    left_out = [blocks[index] for index in family.cross_blocks(base_model.config)]  # type: ignore[index]
    return [parameter for block in left_out for parameter in block.parameters() if parameter.requires_grad]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, tuple | list) else []


def _context(base_model: nn.Module, family: Family, picture: Mapping[str, Any]) -> Context:
    """A context for a picture that nobody asks about."""
    device = picture["pixel_values"].device
    units = family.units(base_model.config, picture, 0)
    rows = rows_of_images(None, units, base_model.config.image_token_id, torch.ones(1, dtype=torch.long, device=device))
    return Context(
        text=_some_text(getattr(base_model, "context_encoder", None), device),
        tower=ImageMap(rows, units.tower_lengths),
        projector=ImageMap(rows, units.projector_lengths),
        num_rows=1,
        image_keys=torch.zeros_like(rows, dtype=torch.long),
        has_gradient=torch.is_grad_enabled(),
        is_idle=True,
    )


def _some_text(encoder: TextEncoder | None, device: torch.device) -> TextStates | None:
    """States of the encoder's width for a text of one token. The encoder does not run."""
    if encoder is None:
        return None
    dtype = next((parameter.dtype for parameter in encoder.parameters()), torch.float32)
    states = gradation(encoder.dim).to(device, dtype)
    return TextStates([(states[None], states)], torch.ones(1, dtype=torch.bool, device=device))
