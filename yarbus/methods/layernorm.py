"""LayerNorm tuning: only the norms of the vision blocks train (arXiv:2312.11420).

The paper tunes norms of the language model; here they are those of the tower, the same tensors that
CoVFT trains beside its experts (methods.md 4.1), so that this is CoVFT without a mixture.
"""

from dataclasses import dataclass
from typing import ClassVar

from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.vlm import VLM


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Method):
    """The norms of every vision block train, LayerNorm or RMSNorm; norms before and after the blocks do not."""

    name: ClassVar[str] = "layernorm"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "identity"
    paper: ClassVar[str] = "arXiv:2312.11420"

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision",)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        for block in vlm.blocks():
            for norm in vlm.tower.norms:
                attachment.train(list(block.get_submodule(norm).parameters()), group="vision")
