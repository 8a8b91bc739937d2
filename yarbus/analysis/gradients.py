"""Do tasks pull the vision blocks in one direction? Gradients by task and block, beside the same-task ceiling.

A gradient over a few samples is mostly noise: two halves of *one* task already disagree. So nothing here is read
without that control. For tasks A and B with batch gradients a_i and b_j (independent samples):

- ``products``: the mean of <a_i, b_j> is an unbiased estimate of <A, B>; within a task the pairs i != j give |A|^2
  without the noise that |mean|^2 would carry.
- ``same_task``: the cosine to expect between the means of two halves of one task's batches (split-half): the ceiling.
- ``across``: the same between halves of two tasks. Compare it with the ceiling, not with 1.
- ``corrected``: <A, B> / sqrt(|A|^2 |B|^2), the cosine that endless data would show.

Everything is made from the Gram matrix of the batch gradients, block by block (world.md 5; methods.md 9.2).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yarbus.models.sketch import count_sketch, key_of
from yarbus.models.vlm import VLM

SKETCH_DIM = 2**18
DRAWS = 500
"""Bootstrap draws of the batches of each task."""
INTERVAL = (0.025, 0.975)


@contextmanager
def _only(model: nn.Module, wanted: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for these parameters alone, in evaluation mode; everything as before afterwards."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    kept = {parameter: parameter.grad for parameter in wanted}
    was_training, ours = model.training, {id(parameter) for parameter in wanted}
    for parameter in flags:
        parameter.requires_grad_(id(parameter) in ours)
    model.eval()
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for parameter, gradient in kept.items():
            parameter.grad = gradient
        model.train(was_training)


def block_products(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], precision: str = "float32", dim: int = SKETCH_DIM
) -> dict[int, Float[np.ndarray, "batches batches"]]:
    """Inner products between the gradients of every two batches, for each executed vision block.

    ``batches`` carry ``labels``; the loss is the mean cross-entropy of their answer tokens. The tower is taken as
    it is, with all parameters of its blocks; dropout is off. A block's gradient is kept whole up to ``dim`` elements
    and count-sketched beyond: cosines then move by about sqrt(2 / dim), and a batch needs 4 * dim bytes per block.
    """
    vlm = VLM.of(model)
    blocks = {index: list(block.parameters()) for index, block in vlm.executed_blocks(0).items()}
    wanted = [parameter for parameters in blocks.values() for parameter in parameters]
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    rows: dict[int, list[np.ndarray]] = {index: [] for index in blocks}
    with _only(model, wanted), torch.enable_grad():
        for batch in batches:
            inputs = {
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
                if name != "sample_ids"
            }
            with autocast:
                loss = model(**inputs).loss
            gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
            for index, parameters in blocks.items():
                found = [
                    torch.zeros_like(parameter) if gradient is None else gradient
                    for parameter, gradient in zip(parameters, gradients, strict=False)
                ]
                rows[index].append(_kept(found, dim).cpu().numpy())
    return {index: _gram(some) for index, some in rows.items()}


def _kept(gradients: Sequence[Tensor], dim: int) -> Float[Tensor, " elements"]:
    """A block's gradient whole, or its sketch; parameter by parameter, so that no second copy of it is needed."""
    if sum(gradient.numel() for gradient in gradients) <= dim:
        return torch.cat([gradient.float().flatten() for gradient in gradients])
    sketches = [count_sketch(one, key_of("block", str(number)), dim) for number, one in enumerate(gradients)]
    return torch.stack(sketches).sum(0)


def _gram(rows: list[np.ndarray]) -> np.ndarray:
    gram = np.empty((len(rows), len(rows)))
    for i, left in enumerate(rows):
        for j in range(i, len(rows)):
            gram[i, j] = gram[j, i] = float(np.dot(left, rows[j]))
    return gram


def drawn_weights(
    owners: Int[np.ndarray, " batches"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws batches"]:
    """How often each batch counts: once in the first row, then in draws with replacement among its task's batches."""
    generator = np.random.default_rng(seed)
    weights = np.ones((draws + 1, len(owners)))
    for owner in np.unique(owners):
        mine = np.flatnonzero(owners == owner)
        weights[1:, mine] = generator.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=draws)
    return weights


class Products:
    """Unbiased products between the mean gradients of tasks, for each draw of their batches.

    ``gram`` [batches, batches]; ``owners`` [batches] the task index of each batch, at least two batches per task.
    ``between`` [draws, tasks, tasks]: estimates of <A, B>, on the diagonal |A|^2 from pairs of different batches.
    ``half`` [draws, tasks]: estimate of the squared length of the mean of half of a task's batches, noise included.
    """

    def __init__(self, gram: np.ndarray, owners: np.ndarray, weights: np.ndarray) -> None:
        tasks = np.unique(owners)
        member = (owners[None, :] == tasks[:, None]).astype(float)  # [tasks, batches]
        count = weights @ member.T  # [draws, tasks]
        by_task = weights[:, None, :] * member[None]  # [draws, tasks, batches]
        sums = by_task @ gram @ by_task.transpose(0, 2, 1)
        between = sums / (count[:, :, None] * count[:, None, :])
        own = (by_task**2) @ np.diag(gram)
        squares = (by_task**2).sum(-1)
        diagonal = np.arange(len(tasks))
        with np.errstate(invalid="ignore", divide="ignore"):
            # A batch drawn twice is no independent pair: only pairs of different batches count.
            lengths = (sums[:, diagonal, diagonal] - own) / (count**2 - squares)
        between[:, diagonal, diagonal] = lengths
        raw = (by_task @ np.diag(gram)) / count  # mean squared length of one batch's gradient
        halves = np.maximum(1, np.bincount(np.searchsorted(tasks, owners)) // 2)
        self.between = between
        self.half = lengths * (1 - 1 / halves) + raw / halves


def _estimate(values: np.ndarray, limit: float = 1.0) -> dict[str, float | None]:
    """The first value (nothing resampled) with the interval of the draws; null where it cannot be made.

    Noise can carry an unbiased cosine past 1, where the truth cannot be: what is shown ends at ``limit``.
    """
    values = np.clip(values, -limit, limit)
    point, draws = values[0], values[1:][np.isfinite(values[1:])]
    if not np.isfinite(point):
        return {"mean": None, "low": None, "high": None}
    # Half of the draws undefined: the estimate is itself not to be trusted, and its interval says so by its absence.
    enough = len(draws) > len(values) / 2
    low, high = np.quantile(draws, INTERVAL) if enough else (None, None)
    return {
        "mean": float(point),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def _mean_of(values: list[np.ndarray]) -> np.ndarray:
    """Mean over entries, ignoring those undefined in a draw; NaN where all are."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0.0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)


def cosines(
    products: Products,
) -> tuple[dict[int, np.ndarray], dict[tuple[int, int], np.ndarray], dict[tuple[int, int], np.ndarray]]:
    """(same task, across, corrected) cosines by task and pair of tasks, each [draws]; NaN where undefined."""
    between, half = products.between, products.half
    tasks = range(between.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        same = {a: between[:, a, a] / half[:, a] for a in tasks}
        pairs = list(combinations(tasks, 2))
        across = {(a, b): between[:, a, b] / np.sqrt(half[:, a] * half[:, b]) for a, b in pairs}
        # Root by root: two lengths that noise made negative would have a product that looks like a length.
        corrected = {(a, b): between[:, a, b] / np.sqrt(between[:, a, a]) / np.sqrt(between[:, b, b]) for a, b in pairs}
    return same, across, corrected


def opposing(gram: np.ndarray, owners: np.ndarray) -> tuple[float | None, float | None]:
    """Share of pairs of batches with a negative product: (of different tasks, of one task)."""
    different = owners[:, None] != owners[None, :]
    upper = np.triu(np.ones_like(different), k=1)
    shares = [gram[chosen & upper] < 0 for chosen in (different, ~different)]
    first, second = (float(share.mean()) if share.size else None for share in shares)
    return first, second


def _summary(gram: np.ndarray, owners: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    same, across, corrected = cosines(Products(gram, owners, weights))
    other, own = opposing(gram, owners)
    return {
        "same_task": _estimate(_mean_of(list(same.values()))),
        "across": _estimate(_mean_of(list(across.values()))),
        "corrected": _estimate(_mean_of(list(corrected.values()))),
        "opposing": other,
        "opposing_same_task": own,
    }


def pulls(products: Products, shares: Sequence[float]) -> list[np.ndarray]:
    """For each task, [draws]: what the other tasks' steps do to it, in units of what its own steps do, to first order.

    Over the mixture the others move the weights by sum_s share_s g_s, which changes task t's loss by minus its product
    with g_t; its own rows by share_t |g_t|^2. Negative: the mixture undoes this task's progress.
    """
    found = []
    for task, own in enumerate(shares):
        others = sum(share * products.between[:, task, other] for other, share in enumerate(shares) if other != task)
        with np.errstate(invalid="ignore", divide="ignore"):
            length = products.between[:, task, task]
            found.append(np.where(length > 0, others / (own * length), np.nan))
    return found


def agreement(
    products: Mapping[int, np.ndarray],
    owners: Sequence[str],
    *,
    batch: int,
    shares: Mapping[str, float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The record ``gradients`` of conflict.json, from the Gram matrix of each block.

    ``owners``: the task of each batch. ``shares``: each task's share of the rows, equal if left out. The whole
    tower's figures come from the sum of the blocks' products, that is from the concatenated gradient. Intervals:
    batches drawn with replacement within their task.
    """
    tasks = list(dict.fromkeys(owners))
    index = np.array([tasks.index(owner) for owner in owners])
    weights = drawn_weights(index, draws, seed)
    total = np.sum(list(products.values()), axis=0)
    whole = Products(total, index, weights)
    same, _, corrected = cosines(whole)
    mixed = {task: 1 / len(tasks) for task in tasks} if shares is None else shares
    pull = pulls(whole, [mixed[task] for task in tasks])
    estimates = {pair: _estimate(values) for pair, values in corrected.items()}
    ceilings = {task: _estimate(values) for task, values in same.items()}

    def cell(a: int, b: int, key: str) -> float | None:
        return ceilings[a][key] if a == b else estimates[min(a, b), max(a, b)][key]

    numbers = range(len(tasks))
    known = [estimate["mean"] for estimate in estimates.values() if estimate["mean"] is not None]
    return {
        "num_batches": len(owners),
        "batch": batch,
        "blocks": list(products),
        "tasks": tasks,
        "by_block": [{"block": block, **_summary(gram, index, weights)} for block, gram in products.items()],
        "overall": {
            **_summary(total, index, weights),
            "opposing_pairs_of_tasks": [sum(value < 0 for value in known), len(known)],
        },
        "by_task": [
            {"task": task, "share": mixed[task], "same_task": ceilings[number], "pull": _estimate(pull[number], np.inf)}
            for number, task in enumerate(tasks)
        ],
        "matrix": {
            "tasks": tasks,
            "cosine": [[cell(a, b, "mean") for b in numbers] for a in numbers],
            "low": [[cell(a, b, "low") for b in numbers] for a in numbers],
            "high": [[cell(a, b, "high") for b in numbers] for a in numbers],
        },
    }
