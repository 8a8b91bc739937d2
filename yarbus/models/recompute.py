"""Activation checkpointing that recomputes each block with the context of its own forward, and trains it."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.models.slot import ContextSlot


def _trains(function: Callable[..., Any]) -> bool:
    """Whether the block that a checkpointing function is handed has anything to train; True where it is not known."""
    plain = function.func if isinstance(function, partial) else function
    given = function.args if isinstance(function, partial) else ()
    owners = [one for one in (getattr(plain, "__self__", None), *given) if isinstance(one, nn.Module)]
    return not owners or any(parameter.requires_grad for parameter in owners[0].parameters())


def _reached_by_gradient(function: Callable[..., Any], args: tuple) -> tuple:
    """The arguments of a checkpointed block, with one that requires grad where the block trains and none does.

    Reentrant checkpointing gives no gradient to a block without such an input. The library takes care of it at the
    embeddings, but some towers (Qwen3-VL's, Molmo2's) do not tell it where they are: their blocks would train nothing,
    silently, behind a frozen patch embedding.
    """
    tensors = [one for one in args if isinstance(one, Tensor) and one.is_floating_point()]
    if not tensors or any(one.requires_grad for one in tensors) or not torch.is_grad_enabled() or not _trains(function):
        return args
    return tuple(one.detach().requires_grad_() if one is tensors[0] else one for one in args)


def bind(checkpoint: Callable[..., Any], slot: ContextSlot) -> Callable[..., Any]:
    """A checkpointing function whose recomputation sees the context of its own forward.

    Without it two forwards before one backward recompute the first with the second's questions, silently.
    """

    @wraps(checkpoint)
    def run_checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        args = _reached_by_gradient(function, args)
        context = slot.context
        ran: list[bool] = []

        def run(*inputs: Any) -> Any:
            recorder = slot.recorder
            if ran:  # a recomputation: what it notices was noticed before
                slot.recorder = None
            ran.append(True)
            try:
                with slot.holding(context):
                    return function(*inputs)
            finally:
                slot.recorder = recorder

        return checkpoint(run, *args, **kwargs)

    run_checkpoint.is_bound = True  # type: ignore[attr-defined]
    return run_checkpoint
