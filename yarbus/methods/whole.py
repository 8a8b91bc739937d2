"""The two ends of the scale: train nothing in a place, or everything (methods.md 3.1, 3.2)."""

from dataclasses import dataclass
from typing import ClassVar

from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.vlm import VLM


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """The place runs as it is and nothing in it trains."""

    name: ClassVar[str] = "frozen"
    places: ClassVar[tuple[str, ...]] = ("vision", "projector", "language")
    start: ClassVar[Start] = "identity"

    def groups(self, place: str) -> tuple[str, ...]:
        return ()

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        """Nothing to do: a place that no method trains is frozen."""


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Every pretrained tensor of the place trains; dead ones are counted but stay frozen."""

    name: ClassVar[str] = "full"
    places: ClassVar[tuple[str, ...]] = ("vision", "projector", "language")
    start: ClassVar[Start] = "identity"

    def groups(self, place: str) -> tuple[str, ...]:
        return (place,)

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        attachment.train(vlm.place_parameters(place), group=place)


@dataclass(frozen=True, kw_only=True)
class NoHead(Method):
    """Nothing happens between the last hidden states and the lm_head, which then belongs to ``language``."""

    name: ClassVar[str] = "none"
    places: ClassVar[tuple[str, ...]] = ("head",)
    start: ClassVar[Start] = "identity"

    def groups(self, place: str) -> tuple[str, ...]:
        return ()

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        """Nothing to do."""
