"""What a recipe's stage runs on: our samples, and the loss on answer tokens alone."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
from transformers import modeling_utils

from yarbus.training.guarded import Guarded

KEEPS_BY_MASK = hasattr(modeling_utils, "slice_logits_to_keep")
"""Whether ``logits_to_keep`` may be a mask with one row per conversation (transformers 5.23; 5.17: one index)."""


class GuardedTrainer(Guarded):
    """What a recipe's stage runs on: our samples and collator, the loss on answer tokens alone."""

    def collate_drawn(self) -> Callable[[list[tuple[Any, int, int]]], Any]:
        """Our collator takes ``(sample, epoch, row)``: the turn it asks about depends on all three."""
        return self.data_collator

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the *global* batch, with logits computed there alone.

        Rows without pictures depend on nothing that trains where only eyes or projector do: they count in the
        mean, and their backward pass ends at the loss.
        """
        keep, shift_labels = supervised_positions(inputs["labels"], by_mask=KEEPS_BY_MASK)
        if num_items_in_batch is not None:  # a batch without any answer token contributes 0, not 0 / 0
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
        inputs = {**inputs, "logits_to_keep": keep, "shift_labels": shift_labels}
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if torch.is_grad_enabled() and not loss.requires_grad:
            loss.requires_grad_()
        return result


def supervised_positions(
    labels: Int[Tensor, "batch tokens"], by_mask: bool
) -> tuple[Bool[Tensor, "batch tokens"] | Int[Tensor, " positions"], Shaped[Tensor, "..."]]:
    """Positions whose next token is an answer token, and those next tokens.

    As a mask per row (transformers 5.23), or as the positions that any row needs (older: one index for all rows,
    the other rows' labels there are -100).
    """
    shifted = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    mask = shifted != -100
    if by_mask:
        return mask, shifted[mask]
    positions = mask.any(dim=0).nonzero()[:, 0]
    return positions, shifted[:, positions].contiguous()
