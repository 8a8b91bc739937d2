"""The second half of a feed-forward network that does not keep its hidden units.

What an activation and the products around it keep for backward is several times their input. Here the input alone is
kept, and backward computes the hidden units again: little beside the matrix products, which run as often as before.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Activation = Callable[[Tensor], Tensor]


def _hidden(activation: Activation, up: Tensor, gate: Tensor | None = None) -> Tensor:
    return activation(up) if gate is None else activation(gate) * up


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation: Activation, down: Tensor, share: Tensor | None, *inputs: Tensor) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(down, share, *inputs)
        # Under autocast the inputs have its precision already; backward is to see what forward saw.
        with torch.autocast(down.device.type, enabled=False):
            output = _hidden(activation, *inputs) @ down.to(inputs[0].dtype).T
        return output if share is None else output.mul_(share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        down, share, *inputs = ctx.saved_tensors
        own = [one.detach().requires_grad_() for one in inputs]
        for_down = for_share = None
        with torch.autocast(down.device.type, enabled=False):
            with torch.enable_grad():
                hidden = _hidden(ctx.activation, *own)
            units = hidden.detach()
            if ctx.needs_input_grad[1]:
                shared = gradient if share is None else gradient * share
                for_down = (shared.flatten(end_dim=-2).T @ units.flatten(end_dim=-2)).to(down.dtype)
            for_hidden = gradient @ down.to(gradient.dtype)
            if share is not None:
                if ctx.needs_input_grad[2]:
                    each = (for_hidden * units).sum(dim=-1, keepdim=True, dtype=torch.float32)
                    for_share = each.sum_to_size(share.shape).to(share.dtype)
                for_hidden.mul_(share)
            return None, for_down, for_share, *torch.autograd.grad(hidden, own, for_hidden)


def down_from(
    activation: Activation,
    down: Float[Tensor, "dim hidden"],
    share: Float[Tensor, "*some 1"] | None,
    *inputs: Float[Tensor, "*tokens hidden"],
) -> Float[Tensor, "*tokens dim"]:
    """share * down(activation(up)), or share * down(activation(gate) * up) in a gated network.

    ``inputs``: up, and gate where there is one. ``share``: one number per token or image, ready to meet the tokens;
    None is 1.
    """
    return _Down.apply(activation, down, share, *inputs)
