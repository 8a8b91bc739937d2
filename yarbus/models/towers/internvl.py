"""InternVL's own tower: class token, a scale behind both halves of a block, a token for masks that no VLM reads."""

from yarbus.models.vlm import Tower

INTERNVL = Tower(
    config="InternVLVisionConfig",
    blocks=("encoder.layer",),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("layernorm_before", "layernorm_after"),
    attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.projection_layer"),
    prefix_tokens=1,
    dead_tail=("layernorm",),
    unused=("embeddings.mask_token",),
)
