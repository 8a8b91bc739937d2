"""What does not keep its hidden units has the outputs and gradients of what does."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from yarbus.methods.hidden import down_from


def plain(activation, down, share, up, gate=None):
    hidden = activation(up) if gate is None else activation(gate) * up
    output = nn.functional.linear(hidden, down)
    return output if share is None else output * share


def inputs(gated, shared, dtype=torch.float64):
    torch.manual_seed(0)
    down = torch.randn(3, 5, dtype=dtype)
    share = torch.rand(*((2, 1, 1) if shared == "by image" else (2, 4, 1)), dtype=dtype) if shared else None
    units = [torch.randn(2, 4, 5, dtype=dtype) for _ in range(1 + gated)]
    return [None if one is None else one.requires_grad_() for one in (down, share, *units)]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shared", [None, "by image", "by token"])
def test_outputs_and_gradients_are_those_of_the_layer_written_out(gated, shared):
    given = inputs(gated, shared)
    activation = ACT2FN["quick_gelu"]
    torch.testing.assert_close(down_from(activation, *given), plain(activation, *given))
    # fp32 sums of shares make the numerical check coarse: compare with autograd's own.
    weights = torch.randn(2, 4, 3, dtype=torch.float64)
    wanted = [one for one in given if one is not None]
    found = torch.autograd.grad((down_from(activation, *given) * weights).sum(), wanted)
    expected = torch.autograd.grad((plain(activation, *given) * weights).sum(), wanted)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_needs_no_gradient_gets_none():
    down, share, up = inputs(gated=False, shared="by image", dtype=torch.float32)
    down.requires_grad_(False)
    share.requires_grad_(False)
    down_from(torch.tanh, down, share, up).sum().backward()
    assert up.grad is not None and down.grad is None and share.grad is None


def test_under_autocast_it_computes_what_the_layer_written_out_does():
    found = []
    for function in (down_from, plain):
        down, share, x = inputs(gated=False, shared="by image", dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            up = nn.functional.linear(x, torch.eye(5))
            output = function(torch.tanh, down, share.to(up.dtype), up)
        output.sum().backward()
        assert output.dtype is torch.bfloat16 and down.grad.dtype is torch.float32
        found.append([output, down.grad, share.grad, x.grad])
    torch.testing.assert_close(found[0], found[1], atol=2e-2, rtol=2e-2)


def test_it_keeps_its_inputs_and_nothing_else():
    down, share, *units = inputs(gated=True, shared="by token", dtype=torch.float32)
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = down_from(torch.tanh, down, share, *units)
    assert kept == {one.data_ptr(): one.numel() for one in (down, share, *units)}
    assert output.requires_grad
