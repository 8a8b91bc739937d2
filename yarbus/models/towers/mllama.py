"""Mllama's tower: all tiles of a picture as one row of tokens, and two lists of blocks.

The local blocks come first; some of them are tapped on the way. The global ones, with gates, come last. Each tile has a
class token of its own, and behind its patches padding up to a multiple of eight: there is no prefix of the row. The
blocks are plain modules, which activation checkpointing does not cover.
"""

from yarbus.models.vlm import Tower

MLLAMA = Tower(
    config="MllamaVisionConfig",
    blocks=("transformer.layers", "global_transformer.layers"),
    feed_forward="mlp",
    linears=("fc1", "fc2"),
    activation="hidden_act",
    norms=("input_layernorm", "post_attention_layernorm"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    layout="images tiles dim",
)
