"""What a model's eyes do with a batch: the contexts, routing and gaze that its modules notice, by image.

One forward per batch, as in training but without dropout, gradient or labels. Every layout ends in the same shape,
one entry per image that the tower saw; a row without a picture has none.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.models.attachment import attachment_of, is_attached
from yarbus.models.context import rows_of_images
from yarbus.models.images import ImageMap
from yarbus.models.slot import ContextSlot, Recorder
from yarbus.models.vlm import VLM


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was noticed, by image in the order of the batches; all of it on the CPU, numbers in fp32.

    A model without a router notices no context, routing or gaze; one that reads no question has no text.
    """

    sample_ids: list[str]
    """Id of the row that each image belongs to."""
    contexts: dict[int, Tensor]
    """Block -> [images, context_dim]."""
    routing_weights: dict[int, Tensor]
    """Block -> [images, experts]; rows sum to 1."""
    gaze: dict[int, list[Tensor]]
    """Block -> per image [tokens, heads], columns sum to 1. Tokens as the tower has them in its blocks: prefix tokens
    first, and in Qwen2.5-VL patches by attention window, not by row of the picture."""
    text: Tensor
    """[images, text_dim] the bare pooled question, before any block's projection; [images, 0] without a question."""
    features: Tensor
    """[images, dim] mean over the tower's tokens that reach the projector."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module gets its own mode back (a frozen text encoder never trains)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _rows_of_images(vlm: VLM, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, list[int]]:
    """[images] row of the batch that each image stands in; tokens of each image where they are packed; which images
    are pictures, and do not only fill up a row."""
    is_image = batch["input_ids"] == vlm.image_token_id
    units = vlm.family.units(vlm.config, batch, int(is_image.sum()))
    rows = rows_of_images(batch["input_ids"], units, vlm.image_token_id)
    is_picture = torch.ones_like(rows) if units.rows is None else units.placeholders
    return rows, units.tower_lengths, is_picture.nonzero()[:, 0].tolist()


def _mean_by_image(tokens: Tensor, lengths: Tensor | None, num_images: int) -> Tensor:
    """[images, dim] of tokens [images, tokens, dim], or of packed ones [total, dim].

    Mllama's projector is handed images by row and tokens by tile: [batch, images, tiles, tokens, dim].
    """
    tokens = tokens.float()
    if lengths is None:
        return tokens.reshape(num_images, -1, tokens.shape[-1]).mean(dim=1)
    images = ImageMap(lengths, lengths)
    weights = (1 / lengths.float())[images.image_of_token()]
    return images.weighted_sum(weights[:, None], images.strip(tokens))[:, 0]


def _forward(model: nn.Module, slot: ContextSlot, batch: Mapping[str, Any]) -> tuple[Recorder, Tensor, Tensor | None]:
    """What the modules noticed, what the projector was handed, and the pooled question of each image."""
    handed: list[tuple[Tensor, Tensor | None]] = []

    def look(projector: nn.Module, args: tuple[Any, ...]) -> None:
        context = slot.context  # there only while the forward runs
        asked = context is not None and context.text is not None
        handed.append((args[0].detach(), context.pooled_by_image() if context is not None and asked else None))

    hook = VLM.of(model).projector.register_forward_pre_hook(look)
    try:
        with slot.recording() as recorder:
            # One logit per row: nobody reads them, and all of them would be the largest tensor of the forward.
            model(**batch, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    if len(handed) != 1:
        raise RuntimeError(f"the projector ran {len(handed)} times in one forward")
    return recorder, *handed[0]


@torch.no_grad()
def observe(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Observed:
    """What the eyes notice in these batches (as ``data.collate.Collator`` makes them; ``sample_ids`` name the rows).

    Changes nothing: training modes, gradients and random generators are afterwards as before.
    """
    vlm = VLM.of(model)
    slot = attachment_of(model).slot if is_attached(model) else ContextSlot()
    device = next(model.parameters()).device
    sample_ids: list[str] = []
    texts: list[Tensor] = []
    features: list[Tensor] = []
    contexts: dict[int, list[Tensor]] = {}
    weights: dict[int, list[Tensor]] = {}
    gaze: dict[int, list[Tensor]] = {}
    with evaluating(model):
        for whole in batches:
            if whole.get("pixel_values") is None:
                continue
            batch = {
                name: value.to(device) if isinstance(value, Tensor) else value
                for name, value in whole.items()
                if name not in ("sample_ids", "labels")
            }
            rows, lengths, shown = _rows_of_images(vlm, batch)
            recorder, tokens, text = _forward(model, slot, batch)
            sample_ids += [whole["sample_ids"][row] for row in rows[shown].tolist()]
            features.append(_mean_by_image(tokens, lengths, len(rows))[shown].cpu())
            texts.append(text[shown].float().cpu() if text is not None else torch.zeros(len(shown), 0))
            for kind, found in (("context", contexts), ("routing_weights", weights)):
                for block, values in recorder.of(kind).items():
                    found.setdefault(block, []).extend(value[shown].float() for value in values)
            for block, values in recorder.of("gaze").items():
                for value in values:  # [images, tokens, heads], or [total, heads] where packed
                    by_image = value.unbind() if lengths is None else value.split(lengths.tolist())
                    gaze.setdefault(block, []).extend(by_image[image].float() for image in shown)
    return Observed(
        sample_ids=sample_ids,
        contexts={block: torch.cat(values) for block, values in contexts.items()},
        routing_weights={block: torch.cat(values) for block, values in weights.items()},
        gaze=gaze,
        text=torch.cat(texts) if texts else torch.zeros(0, 0),
        features=torch.cat(features) if features else torch.zeros(0, vlm.feature_dim),
    )
