"""Qwen3-VL's tower: packed tokens, LayerNorm, two-layer feed-forward; some blocks are tapped on the way (deepstack)."""

from yarbus.models.vlm import Tower

QWEN3_VL = Tower(
    config="Qwen3VLVisionConfig",
    blocks=("blocks",),
    feed_forward="mlp",
    linears=("linear_fc1", "linear_fc2"),
    activation="hidden_act",
    norms=("norm1", "norm2"),
    attention=("attn.qkv", "attn.proj"),
    num_heads="num_heads",
    layout="total dim",
)
