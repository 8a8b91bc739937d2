"""BitFit: only biases train (arXiv:2106.10199); methods.md 3.3."""

from dataclasses import dataclass
from typing import ClassVar

from yarbus.core.errors import ConfigError
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.vlm import VLM


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Every bias of the vision tower trains: those of its linear layers and of its norms.

    A key bias counts, as it does in the paper, but without rotary positions it adds one number to all logits of a
    query, which the softmax cancels: what reaches it is rounding.
    """

    name: ClassVar[str] = "bitfit"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "identity"
    paper: ClassVar[str] = "arXiv:2106.10199"

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision",)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        parameters = vlm.place_parameters(place)
        biases = {name: parameter for name, parameter in parameters.items() if name.rpartition(".")[2] == "bias"}
        if not biases:
            raise ConfigError(
                f"method '{self.name}' finds nothing to train in {vlm.tower.config}",
                why="this vision tower has no biases",
                fix="choose another method for this tower, for instance layernorm",
            )
        attachment.train(biases, group="vision")
