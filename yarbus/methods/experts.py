"""What mixtures have in common: experts that start as copies of one network, and draws among them."""

import torch
from jaxtyping import Int
from torch import Tensor

from yarbus.models.sketch import hashed


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


def draw(image_keys: Int[Tensor, " images"], key: int, num_experts: int, top_k: int) -> Int[Tensor, "images top_k"]:
    """Different experts for each image, drawn anew for another key of the image or of all; the same on every device."""
    keys = hashed(image_keys, key)
    order = hashed(torch.arange(num_experts, device=keys.device), keys[:, None]).argsort(dim=1)
    return order[:, :top_k]
