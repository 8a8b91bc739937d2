"""DINOv3's vision transformer: class token and registers, rotary positions, layer scale, two linear layers or gated."""

from collections.abc import Mapping
from typing import Any

from yarbus.models.vlm import Tower


def registers_and_gate(config: Any) -> Mapping[str, Any]:
    """The config says how many registers there are, and whether the feed-forward network is gated."""
    gated = {"linears": ("gate_proj", "up_proj", "down_proj")} if config.use_gated_mlp else {}
    return {"prefix_tokens": 1 + config.num_register_tokens, **gated}


DINOV3 = Tower(
    config="DINOv3ViTConfig",
    blocks=("model.layer",),
    feed_forward="mlp",
    linears=("up_proj", "down_proj"),
    activation="hidden_act",
    norms=("norm1", "norm2"),
    attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    prefix_tokens=1,
    dead_tail=("norm",),
    unused=("embeddings.mask_token",),
    varies=registers_and_gate,
)
