"""What a recipe would train and whether it can, before anything is loaded: rows, rates, memory, inputs."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from yarbus.core.errors import ConfigError, UserError
from yarbus.core.own_names import own_name
from yarbus.core.plugins import benchmark_table
from yarbus.core.recipe import Recipe
from yarbus.core.sections import GroupRate, Stage
from yarbus.data.mixture import find_section
from yarbus.methods.assemble import build_all
from yarbus.models.attach import set_stage
from yarbus.models.attachment import attachment_of, declared_groups, parameter_groups
from yarbus.models.load import base_on_meta, config_of
from yarbus.models.plan import Plan, PlanRow, plan
from yarbus.models.vlm import VLM
from yarbus.training.footprint import Asked, Footprint, NotEstimated, footprint
from yarbus.training.groups import block_of, check_groups, rate_scales

Spans = dict[tuple[str, int | None, str], tuple[float, float]]
"""(place, block, group) -> lowest and highest rate of the tensors that train there."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: what trains at which rate, and the memory that does not depend on the batch."""

    stage: str
    plan: Plan
    rates: dict[str, float | dict[str, Any]]
    """Highest rate of each group that trains; as a mapping with ``peak`` where more of it is not the stage's."""
    spans: Spans
    """Lowest and highest rate of what trains in a row of the plan: ``block_decay`` gives each block its own."""
    unused_rates: dict[str, float]
    """Rates of groups that no chosen method declares: a frozen variant inherits them from its recipe."""
    memory: dict[str, int]
    """Bytes of weights, gradients and optimizer state (AdamW: two numbers per trained one), all in fp32."""
    footprint: Footprint | None = None
    """Memory of a training step term by term, where it was asked for and the model runs on shapes."""
    not_estimated: str | None = None
    """Why there is none, where it was asked for."""

    def trains(self, row: PlanRow) -> bool:
        """Whether the row's group is one that a method of this stage declares."""
        return row.group in self.rates

    def span(self, row: PlanRow) -> tuple[float, float] | None:
        """Lowest and highest rate in a row; None where nothing of it trains."""
        return self.spans.get((row.place, row.block, row.group)) if row.trained else None

    def to_json(self) -> dict[str, Any]:
        """The plan as ``--json`` prints it."""
        told = self.plan.to_json()
        for row, line in zip(self.plan.rows, told["rows"], strict=True):
            if (span := self.span(row)) is not None:
                line["learning_rate"] = span[1]
                line |= {"lowest_learning_rate": span[0]} if span[0] != span[1] else {}
        return {
            "stage": self.stage,
            **told,
            "learning_rate": self.rates,
            "unused_learning_rate": self.unused_rates,
            "memory_bytes": self.memory,
            **({} if self.footprint is None else {"footprint": self.footprint.to_json()}),
            **({} if self.not_estimated is None else {"footprint": None, "not_estimated": self.not_estimated}),
        }


@contextmanager
def _told_with(stage: str) -> Iterator[None]:
    """Errors name the stage that they concern."""
    try:
        yield
    except UserError as error:
        what = f"stage '{stage}': {error.what}"
        raise type(error)(what, where=error.where, why=error.why, fix=error.fix) from None


def check_inputs(recipe: Recipe, stages: Collection[str] | None = None) -> None:
    """Raises where a run would find out at its end: unknown data sources and benchmarks, files that are not there.

    ``stages``: those whose data will be read, None for all. A plug-in's files are made now.
    """
    for name, stage in recipe.stages.items():
        if stages is None or name in stages:
            with _told_with(name):
                for section in stage.data:
                    find_section(section)
    benchmarks = benchmark_table()
    for name in recipe.evaluation:
        if (own := own_name(name)) is not None:
            own.check()
        else:
            benchmarks.get(name)  # an unknown name raises


def _on_meta(recipe: Recipe) -> nn.Module:
    return base_on_meta(recipe.model.architecture or config_of(recipe.model.name).to_dict())


def _told(rate: GroupRate, stage: Stage) -> float | dict[str, Any]:
    """A number where the group goes the stage's way, else its peak and what is its own."""
    usual = {
        "warmup_fraction": stage.warmup_fraction,
        "schedule": stage.schedule,
        "block_decay": 1.0,
        "frozen_fraction": 0.0,
    }
    own = {key: value for key, value in rate.model_dump(exclude={"peak"}).items() if value != usual[key]}
    return {"peak": rate.peak, **own} if own else rate.peak


def _spans(model: nn.Module, rates: Mapping[str, GroupRate], scales: Mapping[str, float]) -> Spans:
    places, paths = attachment_of(model).parameters, VLM.of(model).block_paths()
    found: dict[tuple[str, int | None, str], list[float]] = {}
    for group, tensors in parameter_groups(model).items():
        for name in tensors:
            key = (places[name].place, block_of(name, paths), group)
            found.setdefault(key, []).append(rates[group].peak * scales.get(name, 1.0))
    return {key: (min(some), max(some)) for key, some in found.items()}


def _footprint(model: nn.Module, stage: Stage, asked: Asked | None) -> tuple[Footprint | None, str | None]:
    if asked is None:
        return None, None
    try:
        return footprint(model, stage, asked), None
    except NotEstimated as error:
        return None, str(error)


def refuse_untrained_projector(recipe: Recipe, first: str) -> None:
    """Raises where a model from parts would begin with a stage that leaves its random projector as it is."""
    if recipe.model.parts is None:
        return
    method = build_all(recipe.stages[first].train).get("projector")
    if method is None or not method.groups("projector"):
        raise ConfigError(
            f"stage '{first}' does not train the projector",
            why="a model from parts begins with a random one, and what is trained around it would learn from noise",
            fix=f"add projector: full to stages.{first}.train, or begin from an adapter that has trained it (start)",
        )


def plan_recipe(recipe: Recipe, asked: Asked | None = None, *, is_started: bool = False) -> list[StagePlan]:
    """The plan of every stage, on the meta device: no weight is read, no memory taken.

    Args:
        asked: adds the memory of a training step with such a batch; it takes one forward on shapes for each stage.
        is_started: whether it begins from an adapter, which has trained what a model from parts has new.

    Raises ``ConfigError`` as training would: an option, a group without a rate or without a tensor.
    """
    if not is_started:
        refuse_untrained_projector(recipe, next(iter(recipe.stages)))
    model = _on_meta(recipe)
    model.config._name_or_path = recipe.model.title  # type: ignore[union-attr]
    plans = []
    for name, stage in recipe.stages.items():
        with _told_with(name):
            places = build_all(stage.train)
            set_stage(model, None, places, text_encoder=recipe.question.text_encoder)
            groups, rates = parameter_groups(model), stage.rates
            check_groups(model, groups, declared_groups(model), rates)
            scales = rate_scales(model, groups, rates)
            memory, reason = _footprint(model, stage, asked)
        made, declared = plan(model), declared_groups(model)
        trained = made.total("trained")
        plans.append(
            StagePlan(
                stage=name,
                plan=made,
                rates={group: _told(rates[group], stage) for group in declared},
                spans=_spans(model, rates, scales),
                unused_rates={group: rate.peak for group, rate in rates.items() if group not in declared},
                memory={
                    "weights": made.total("parameters") * 4,
                    "gradients": trained * 4,
                    "optimizer": trained * 8,
                },
                footprint=memory,
                not_estimated=reason,
            )
        )
    return plans
