"""DINOv2: class token, layer scale behind both halves of a block, a feed-forward network of two layers or SwiGLU."""

from collections.abc import Mapping
from typing import Any

from transformers.models.dinov2 import modeling_dinov2

from yarbus.models.vlm import Tower

IS_NESTED = hasattr(modeling_dinov2, "Dinov2SelfAttention")
"""In transformers 5.17 attention lies in two modules, and SwiGLU's first two linear layers are one: methods that ask
for the parts of its feed-forward network refuse it there."""
PROJECTIONS = (
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
    if IS_NESTED
    else ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
)


def swiglu(config: Any) -> Mapping[str, Any]:
    """SwiGLU, the giant's, has three linear layers, and its activation is not the config's."""
    if not config.use_swiglu_ffn:
        return {}
    return {"linears": ("gate_proj", "up_proj", "down_proj"), "activation": "silu"}


DINOV2 = Tower(
    config="Dinov2Config",
    blocks=("encoder.layer",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("norm1", "norm2"),
    attention=PROJECTIONS,
    prefix_tokens=1,
    dead_tail=("layernorm",),
    unused=("embeddings.mask_token",),
    varies=swiglu,
)
