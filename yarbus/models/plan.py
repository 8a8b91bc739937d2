"""What trains where: place x block x method x parameters, declared and reachable."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from yarbus.core.places import GROUPS, PLACES
from yarbus.models.attachment import attachment_of
from yarbus.models.encoder_inputs import PLACE
from yarbus.models.vlm import VLM

Key = tuple[str, int | None, str]
"""(place, block, group)"""


@dataclass(frozen=True)
class PlanRow:
    """Parameters of one group in one vision block, or in the rest of a place."""

    place: str
    block: int | None
    """Index of the vision block; None outside of the blocks."""
    method: str
    group: str
    """Empty for parameters that no method trains."""
    parameters: int
    declared: int
    """Parameters that the method says it trains (the paper's count, with those that we leave out as dead)."""
    trained: int
    """Of these, the ones that a gradient reaches and that train in this stage."""
    dtype: str = ""
    """Precision of their weights; several are joined by commas."""


@dataclass(frozen=True)
class Plan:
    """The whole model by rows."""

    base: str
    rows: tuple[PlanRow, ...]
    text_encoder: str | None

    def total(self, field: str, group: str | None = None) -> int:
        """Sum of ``parameters``, ``declared`` or ``trained``, of one group or of all."""
        return sum(getattr(row, field) for row in self.rows if group is None or row.group == group)

    def groups(self) -> dict[str, int]:
        """Trained parameters by group, in the order of ``GROUPS``."""
        totals = {group: self.total("trained", group) for group in GROUPS}
        return {group: total for group, total in totals.items() if total}

    def to_json(self) -> dict[str, Any]:
        """The plan as a run keeps it."""
        return {"base": self.base, "text_encoder": self.text_encoder, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = [
            f"{'place':<11}{'block':>6}  {'method':<10}{'group':<12}{'parameters':>15}{'declared':>15}{'trained':>15}"
        ]
        for row in self.rows:
            block = "" if row.block is None else row.block
            lines.append(
                f"{row.place:<11}{block:>6}  {row.method:<10}{row.group or '-':<12}"
                f"{row.parameters:>15,}{row.declared:>15,}{row.trained:>15,}"
            )
        totals = (self.total(field) for field in ("parameters", "declared", "trained"))
        lines.append(f"{'total':<41}" + "".join(f"{total:>15,}" for total in totals))
        return "\n".join(lines)


def _row(key: Key, method: str, counts: list[int], dtypes: set[str]) -> PlanRow:
    place, block, group = key
    parameters, declared, trained = counts
    return PlanRow(place, block, method, group, parameters, declared, trained, ", ".join(sorted(dtypes)))


def plan(model: nn.Module) -> Plan:
    """What is attached to a model and what of it trains; works on the meta device."""
    attachment, vlm = attachment_of(model), VLM.of(model)
    paths = vlm.block_paths()
    place_of = {id(p): place for place in PLACES for p in vlm.place_parameters(place).values()}
    counts: dict[Key, list[int]] = {}
    dtypes: dict[Key, set[str]] = {}
    for name, parameter in model.named_parameters():
        trained = attachment.parameters.get(name)
        place = place_of.get(id(parameter)) if trained is None else trained.place
        if place is None and f".{PLACE}." in name:  # further vision encoders: frozen, but as heavy as a tower
            place = "head"
        if place is None:  # the frozen text encoder is named below, not counted among the model's own
            continue
        block = next((index for index, path in enumerate(paths) if name.startswith(f"{path}.")), None)
        group = "" if trained is None else trained.group
        row = counts.setdefault((place, block, group), [0, 0, 0])
        row[0] += parameter.numel()
        dtypes.setdefault((place, block, group), set()).add(str(parameter.dtype).removeprefix("torch."))
        if trained is not None:
            row[1] += parameter.numel()
            row[2] += parameter.numel() if trained.is_reachable and trained.place in attachment.active else 0
    for (place, path, group), number in attachment.dropped.items():
        block = next((index for index, one in enumerate(paths) if path.startswith(f"{one}.")), None)
        counts.setdefault((place, block, group), [0, 0, 0])[1] += number
    methods = {place: attachment.places[place].name if place in attachment.places else "frozen" for place in PLACES}
    order = sorted(counts, key=lambda key: (PLACES.index(key[0]), -1 if key[1] is None else key[1], key[2]))
    rows = tuple(_row(key, methods[key[0]], counts[key], dtypes.get(key, set())) for key in order)
    encoder = getattr(vlm.base_model, "context_encoder", None)
    return Plan(attachment.base_name or attachment.base_class, rows, None if encoder is None else encoder.name)
