"""Small versions of every method of the tables, for the tests that hold for all of them."""

from dataclasses import dataclass

from tests.tiny.further_encoders import encoder_folder
from yarbus.methods import CARPE, LEVI, SVPT, VPT, BitFit, CoVFT, Frozen, Full, LayerNorm, LoRA, NoHead, QAViT, QMoE
from yarbus.models.attachment import Method


@dataclass(frozen=True)
class Case:
    """One method in one place, small enough for the models of ``tests.tiny``."""

    place: str
    method: Method


CASES = {
    "vision frozen": Case("vision", Frozen()),
    "vision full": Case("vision", Full()),
    "vision bitfit": Case("vision", BitFit()),
    "vision layernorm": Case("vision", LayerNorm()),
    "vision lora": Case("vision", LoRA(rank=2, alpha=4.0, dropout=0.0)),
    "vision lora all trained": Case("vision", LoRA(rank=2, dropout=0.0, targets="all-linear", rest="trained")),
    "vision vpt": Case("vision", VPT(num_prompts=3)),
    "vision vpt normal": Case("vision", VPT.preset("official", num_prompts=3)),
    "vision svpt": Case("vision", SVPT(num_prompts=3, salient_fraction=0.5)),
    "vision covft cve dense": Case("vision", CoVFT(num_experts=3, context_dim=16)),
    "vision covft cve merged": Case("vision", CoVFT(num_experts=3, context_dim=16, routing="merged")),
    "vision covft text dense": Case("vision", CoVFT(num_experts=3, context_dim=16, context="text")),
    "vision covft image merged": Case(
        "vision", CoVFT(num_experts=3, context_dim=16, context="image", routing="merged")
    ),
    "vision covft concat dense": Case("vision", CoVFT(num_experts=3, context_dim=24, context="concat")),
    "vision covft sparse": Case(
        "vision", CoVFT(num_experts=3, context_dim=16, routing="sparse", balance_loss=0.01, z_loss=0.001)
    ),
    "vision covft random": Case("vision", CoVFT(num_experts=3, routing="random")),
    "vision covft uniform": Case("vision", CoVFT(num_experts=3, context_dim=16, routing="uniform")),
    "vision covft one expert": Case("vision", CoVFT(num_experts=1, context_dim=16)),
    "vision qavit": Case("vision", QAViT(first_block=1, max_tokens=5)),
    "projector frozen": Case("projector", Frozen()),
    "projector full": Case("projector", Full()),
    "projector qmoe": Case("projector", QMoE(num_queries=3, width=16, num_layers=2, num_heads=2, num_experts=3)),
    "language frozen": Case("language", Frozen()),
    "language full": Case("language", Full()),
    "language lora": Case("language", LoRA(rank=2, alpha=4.0, dropout=0.0)),
    "head none": Case("head", NoHead()),
    "head levi": Case("head", LEVI()),
    "head carpe": Case("head", CARPE(num_heads=4)),
    "head carpe ours": Case("head", CARPE.preset("ours")),
    "head carpe adapted": Case("head", CARPE(features="adapted")),
    "head carpe joint": Case("head", CARPE(context_pass="joint")),
    "head carpe masked": Case("head", CARPE(context_pass="masked")),
    "head carpe scalar": Case("head", CARPE(weighting="scalar")),
    "head carpe fixed": Case("head", CARPE(weighting="fixed", vision_weight=0.26)),
    "head carpe without cross-attention": Case("head", CARPE(cross_attention=False)),
    "head carpe encoders": Case(
        "head", CARPE(encoders={"siglip": encoder_folder("siglip"), "cumo": encoder_folder("cumo")})
    ),
    "head carpe lm_head kept": Case("head", CARPE(train_lm_head=False)),
    "head carpe lm_head alone": Case("head", CARPE(weighting="fixed", vision_weight=0.0)),
}
"""By a name that tests show. Every entry of every table must have one: ``tests.matrix`` checks it."""
