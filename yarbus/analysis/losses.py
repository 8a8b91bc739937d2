"""What a short run is worth for each task: the loss of held-out rows, and paired differences of it."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yarbus.report.intervals import paired_bootstrap

IGNORED = -100
LEAST_GROUPS = 5
"""Pictures below which no interval is made: one picture drawn again is always the same, and would claim certainty."""


def answer_losses(
    logits: Float[Tensor, "batch tokens vocab"], labels: Int[Tensor, "batch tokens"]
) -> Float[Tensor, " batch"]:
    """Mean cross-entropy (nats per token) of each row's answer; NaN for a row without one."""
    shifted = labels[:, 1:]
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), shifted, ignore_index=IGNORED, reduction="none"
    )
    answered = (shifted != IGNORED).sum(1)
    return losses.sum(1) / answered.where(answered > 0, torch.nan)


@torch.no_grad()
def row_losses(model: nn.Module, batches: Iterable[Mapping[str, Any]], precision: str = "float32") -> dict[str, float]:
    """Loss of each row's answer by its id, in evaluation mode; ``batches`` carry ``labels`` and ``sample_ids``."""
    device, was_training = next(model.parameters()).device, model.training
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    found: dict[str, float] = {}
    model.eval()
    try:
        for batch in batches:
            inputs = {
                name: value.to(device) if isinstance(value, Tensor) else value
                for name, value in batch.items()
                if name not in ("sample_ids", "labels")
            }
            with autocast:
                logits = model(**inputs).logits
            losses = answer_losses(logits, batch["labels"].to(device)).tolist()
            found |= dict(zip(batch["sample_ids"], losses, strict=True))
    finally:
        model.train(was_training)
    return found


def paired_estimate(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[str],
    *,
    seeds: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> dict[str, float | None]:
    """``paired_bootstrap`` as a record: no interval for fewer than five groups, nothing at all without an entry."""
    if not len(a):
        return {"mean": None, "low": None, "high": None}
    found = paired_bootstrap(a, b, groups, seeds=seeds, tasks=tasks)
    if len(set(groups)) < LEAST_GROUPS:
        return {"mean": found.mean, "low": None, "high": None}
    return {"mean": found.mean, "low": found.low, "high": found.high}


def paired_gap(
    worse: Sequence[Mapping[str, float]], better: Sequence[Mapping[str, float]], groups: Mapping[str, str]
) -> dict[str, float | None]:
    """Mean of ``worse - better`` over rows and seeds with its interval: entry i of both is one seed, paired by row.

    ``groups``: row id -> what rows share that is drawn together (a picture). Seeds are drawn too.
    """
    keys = [
        (seed, name)
        for seed, (one, other) in enumerate(zip(worse, better, strict=True))
        for name in one
        if name in other and name in groups
    ]
    return paired_estimate(
        [worse[seed][name] for seed, name in keys],
        [better[seed][name] for seed, name in keys],
        [groups[name] for _, name in keys],
        seeds=[seed for seed, _ in keys],
    )
