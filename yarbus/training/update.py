"""One optimizer step as it is seen before it is done: its samples, losses, gradient norms and rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from yarbus.core.errors import NonFiniteError

Reader = Callable[[int, nn.Module, list[str]], None]
"""``reader(step, model, sample_ids)``: called once per update with the accumulated, unclipped gradient in ``.grad``.

``step`` is the one about to be done, counted from 1; ``sample_ids`` are this process's share of the batch.
"""

SHOWN_SAMPLES = 8


@dataclass
class Update:
    """What one optimizer step has seen so far, on this process."""

    sample_ids: list[list[str]] = field(default_factory=list)
    """Ids of each micro-batch."""
    losses: list[Tensor] = field(default_factory=list)
    """Each micro-batch's share of the loss; their sum is the mean over the batch's answer tokens."""
    has_images: bool = False
    loss: float = 0.0
    gradient_norms: dict[str, float] = field(default_factory=dict)
    learning_rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest of each group."""

    def check_finite(self, step: int, groups: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        """Raises ``NonFiniteError``, which names samples and tensor, where the loss or a gradient is no number."""
        bad_groups = [group for group, norm in self.gradient_norms.items() if not math.isfinite(norm)]
        if math.isfinite(self.loss) and not bad_groups:
            return
        parts = list(zip(self.sample_ids, self.losses, strict=True))
        bad_parts = [names for names, loss in parts if not torch.isfinite(loss)] or self.sample_ids
        suspects = [name for names in bad_parts for name in names]
        shown = ", ".join(suspects[:SHOWN_SAMPLES])
        more = f" and {len(suspects) - SHOWN_SAMPLES} more" if len(suspects) > SHOWN_SAMPLES else ""
        raise NonFiniteError(
            f"step {step} is not finite (loss {self.loss:.4g}), stopped before the update",
            where=f"samples {shown}{more}" if suspects else None,
            why=_first_bad_tensor(groups, bad_groups),
            fix="look at these samples, lower the learning rate or use precision float32, then resume",
        )


def _first_bad_tensor(groups: Mapping[str, Mapping[str, nn.Parameter]], bad_groups: Sequence[str]) -> str:
    """Names the first parameter whose gradient is not finite."""
    for group in bad_groups:
        for name, tensor in groups[group].items():
            if tensor.grad is not None and not torch.isfinite(tensor.grad).all():
                return f"first bad gradient: {name} ({group})"
    return f"the gradient norm of {', '.join(bad_groups)} overflows" if bad_groups else "the loss alone is bad"
