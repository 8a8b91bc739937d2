"""Qwen2.5-VL's tower: packed tokens, RMSNorm, gated feed-forward, windowed attention."""

from yarbus.models.vlm import Tower

QWEN2_5_VL = Tower(
    config="Qwen2_5_VLVisionConfig",
    blocks=("blocks",),
    feed_forward="mlp",
    linears=("gate_proj", "up_proj", "down_proj"),
    activation="hidden_act",
    norms=("norm1", "norm2"),
    attention=("attn.qkv", "attn.proj"),
    num_heads="num_heads",
    layout="total dim",
)
