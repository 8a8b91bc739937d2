"""Idefics3's tower: a SigLIP without pooling head, whose patches may be masked where a tile is padded."""

from yarbus.models.vlm import Tower

IDEFICS3 = Tower(
    config="Idefics3VisionConfig",
    blocks=("encoder.layers",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("layer_norm1", "layer_norm2"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
)
