"""LEVI as CARPE adapts it: adapting layers on the last language blocks, averaged (methods.md 7.3).

The original (arXiv:2402.04644) joins a small model trained from scratch with the frozen one and supervises what lies
between; that is not reproduced here. Ours: pre-norm and residual layers whose outputs start as zero, causal, one norm
behind the average that starts as the language model's last; a row without a picture keeps the model's own states.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from yarbus.core.errors import ConfigError
from yarbus.methods.head import AFTER_ALL, Head, refuse_unfit
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.slot import ContextSlot
from yarbus.models.vlm import VLM

NUM_LAYERS = 5
"""CARPE's own number."""


class LeviHead(Head):
    """One adapting layer per listened block, and the norm behind their average."""

    def __init__(self, method: "LEVI", num_layers: int, slot: ContextSlot, vlm: VLM) -> None:
        super().__init__(slot, vlm, lm_head_trains=True)
        for _ in range(num_layers):
            self.add_integrator(vlm, method.num_heads, method.mlp_ratio, cross_attention=True)
        self.norm = copy.deepcopy(vlm.final_norm).requires_grad_(True)

    def combine(
        self,
        states: Float[Tensor, "batch chosen dim"],
        found: list[Float[Tensor, "batch chosen dim"]],
        weight: Float[Tensor, "batch chosen 1"] | None,
    ) -> Float[Tensor, "batch chosen dim"]:
        """The norm of the average; the language model's own last states take no part."""
        return self.norm(torch.stack(found).mean(dim=0))


@dataclass(frozen=True, kw_only=True)
class LEVI(Method):
    """Adapting layers between the image and the last language blocks; their average goes to the lm_head.

    It has no weight and reads no question: every answer relies on the image alike. The lm_head trains with it, and gets
    a copy of its own where it shares its weight with the embedding table.
    """

    name: ClassVar[str] = "levi"
    places: ClassVar[tuple[str, ...]] = ("head",)
    start: ClassVar[Start] = "changes"
    """The average of several blocks' states is not the last one's."""
    silent: ClassVar[tuple[str, ...]] = (".norms.", ".query.", ".key.", ".value.", ".up.")
    """What lies behind an output layer that starts as zero."""
    reasons: ClassVar[Mapping[str, str]] = dict.fromkeys(silent, "the output layer behind it starts as zero")
    paper: ClassVar[str] = "arXiv:2402.04644"

    num_layers: Annotated[int, Ge(1)] | None = None
    """Adapting layers, on the outputs of as many last blocks; None is five, or all blocks where there are fewer."""
    num_heads: Annotated[int, Ge(1)] | None = None
    """Of each attention; None is as many as the language model has."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Width of a layer's network over the model's."""

    def groups(self, place: str) -> tuple[str, ...]:
        return ("head",)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        refuse_unfit(vlm)
        num_blocks = len(vlm.language_blocks)
        num_layers = self.num_layers or min(NUM_LAYERS, num_blocks)
        if num_layers > num_blocks:
            raise ConfigError(f"{num_layers} adapting layers on {num_blocks} language blocks", fix="lower num_layers")
        attachment.untie(vlm)
        attachment.train(list(vlm.lm_head.parameters()), group="head")
        head = LeviHead(self, num_layers, attachment.slot, vlm)
        heard = [*range(num_blocks - num_layers + 1, num_blocks), AFTER_ALL]
        head.attach(vlm, attachment, heard, "adapted")
        attachment.train(list(head.parameters()), group="head")
