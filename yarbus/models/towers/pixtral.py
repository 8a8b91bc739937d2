"""Pixtral's tower: the patches of all images as one sequence ``[1, total, dim]``, RMSNorm, gated feed-forward."""

from yarbus.models.vlm import Tower

PIXTRAL = Tower(
    config="PixtralVisionConfig",
    blocks=("transformer.layers",),
    feed_forward="feed_forward",
    linears=("gate_proj", "up_proj", "down_proj"),
    activation="hidden_act",
    norms=("attention_norm", "ffn_norm"),
    attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    layout="total dim",
    processor="yarbus.models.pil_pixtral:PilPixtralProcessor",
)
