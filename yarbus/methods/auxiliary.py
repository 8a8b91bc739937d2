"""Losses beside the loss: of routers, on the graph of the block that they come from.

``add_loss`` puts a loss's gradient on the way back through a tensor. Nobody has to hand the loss on: it survives a
fused head, a loss of the user's own, TRL, and checkpointing of the block.

A loss weighs ``slot.loss_scale`` per forward. Our trainer sets it so that the micro-batches of an update weigh as one;
plain Trainer and TRL add up the losses of all micro-batches at weight 1: there, divide the coefficients by
``gradient_accumulation_steps``, or set ``model.base_model.context_slot.loss_scale``. fp16's loss scaler knows nothing
of these losses: train in bf16.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from yarbus.models.slot import Context


class _AddLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.loss, ctx.scale = (loss.shape, loss.dtype, loss.device), scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        shape, dtype, device = ctx.loss
        return gradient, torch.full(shape, ctx.scale, dtype=dtype, device=device), None


def add_loss(tensor: Tensor, loss: Tensor, scale: float = 1.0) -> Tensor:
    """The tensor itself; where a gradient comes back through it, ``scale`` times the loss's gradient joins in."""
    return _AddLoss.apply(tensor, loss, scale)


def router_losses(
    logits: Float[Tensor, "images experts"], chosen: Int[Tensor, "images top_k"], context: Context, block: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The balance and z-loss of one block's router, over the images of all processes (methods.md 4.7).

    Balance is E sum_n f_n P_n: ``f`` the share of all choices that fell on expert n, without gradient, ``P`` its mean
    softmax over all experts; 1 where images are shared out evenly. The z-loss is the mean squared log-sum-exp.
    Gradients are right once averaged over processes, as DDP does: each process counts its own images that many times.
    A process without images has its part in this by a dummy image (``models.idle``), which counts for nothing.
    """
    if context.is_idle:
        logits, chosen = logits[:0], chosen[:0]
    num_experts, top_k = logits.shape[1], chosen.shape[1]
    counts = (chosen[..., None] == torch.arange(num_experts, device=chosen.device)).sum(dim=(0, 1))
    gates, squares = logits.softmax(dim=-1).sum(dim=0), logits.logsumexp(dim=-1).square().sum()
    own = torch.cat([gates.detach(), squares.detach()[None], counts, counts.sum()[None] / top_k])
    # Kept for a recomputation, which must not wait for processes that recompute nothing.
    everywhere = context.notes.get(("load", block))
    if everywhere is None:
        everywhere = context.notes["load", block] = over_processes(own)
    all_gates, all_squares, counts, images = everywhere.split([num_experts, 1, num_experts, 1])
    images = images.clamp(min=1)
    num_processes = distributed.get_world_size() if _is_distributed() else 1
    gates = all_gates + num_processes * (gates - gates.detach())
    squares = all_squares[0] + num_processes * (squares - squares.detach())
    balance = num_experts * (counts / (top_k * images) * gates / images).sum()
    return balance, squares / images[0]


def no_images(num_experts: int, device: torch.device) -> None:
    """The part in ``router_losses`` of a process whose batch has no image: without it the others would wait."""
    over_processes(torch.zeros(2 * num_experts + 2, device=device))


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def over_processes(values: Float[Tensor, " numbers"]) -> Float[Tensor, " numbers"]:
    """The sum over all processes, without gradient; in place."""
    if _is_distributed():
        distributed.all_reduce(values)
    return values
