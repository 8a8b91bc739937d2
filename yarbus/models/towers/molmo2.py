"""Molmo2's tower: a row of patches per crop, no norm behind the last block."""

from yarbus.models.vlm import Tower

MOLMO2 = Tower(
    config="Molmo2VisionConfig",
    blocks=("layers",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("layer_norm1", "layer_norm2"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
)
