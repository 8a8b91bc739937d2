"""SigLIP's vision transformer: no class token, pre-norm blocks, a pooling head that no VLM reads.

Fixed-resolution SigLIP 2 weights are of this class too.
"""

from yarbus.models.vlm import Tower

SIGLIP = Tower(
    config="SiglipVisionConfig",
    blocks=("encoder.layers",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("layer_norm1", "layer_norm2"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    dead_tail=("post_layernorm",),
    unused=("head",),
)
