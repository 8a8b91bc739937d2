"""CLIP's vision transformer: class token, pre-norm blocks, a two-layer feed-forward network."""

from yarbus.models.vlm import Tower

CLIP = Tower(
    config="CLIPVisionConfig",
    blocks=("encoder.layers",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("layer_norm1", "layer_norm2"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    prefix_tokens=1,
    dead_tail=("post_layernorm",),
    alone=-2,
)
