"""Qwen2-VL's tower: packed tokens, LayerNorm, two-layer feed-forward, full attention within an image."""

from yarbus.models.vlm import Tower

QWEN2_VL = Tower(
    config="Qwen2VLVisionConfig",
    blocks=("blocks",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("norm1", "norm2"),
    attention=("attn.qkv", "attn.proj"),
    num_heads="num_heads",
    dim="embed_dim",  # its hidden_size is the language model's
    layout="total dim",
)
