"""What every mixture does to experts that start as copies of one network."""

import torch
from torch import Tensor


@torch.no_grad()
def jitter(weight: Tensor, relative: float, at: int = 0) -> None:
    """Adds noise that tells experts apart and cancels in their mean (methods.md 4.5), in place.

    Args:
        weight: the experts' weights, stacked in dimension ``at``.
        relative: the noise's size, as a share of the weights' standard deviation; 0 adds none.
    """
    if not relative or weight.shape[at] == 1 or weight.device.type == "meta":
        return
    noise = torch.randn_like(weight)
    noise -= noise.mean(dim=at, keepdim=True)
    weight += noise * relative * weight.std()
