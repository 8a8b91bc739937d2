"""What a turn of ``yarbus overhead`` measures: a model as a recipe's last stage would train it, and what it is fed.

Either the recipe's base and rows, or weights drawn at random and rows that are made up: neither is downloaded then.
What stages before the last attach is there, but they have not trained: what a step costs does not hang on the numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import set_seed

from yarbus.core.errors import DataError
from yarbus.core.recipe import Recipe
from yarbus.data.collate import prompt_batch
from yarbus.data.mixture import Mixture, mix
from yarbus.data.sample import Sample
from yarbus.methods.assemble import build_all
from yarbus.models.attach import set_stage
from yarbus.models.load import config_of, load_base, random_base
from yarbus.models.made_up import made_up_batch
from yarbus.models.shape_batch import BatchShape, tokens_of_picture
from yarbus.models.text_encoder import TextEncoder, random_text_encoder
from yarbus.models.vlm import VLM
from yarbus.training.footprint import Asked, batch_shape
from yarbus.training.stages import begin_stage, stage_collator, stage_seed

MADE_UP_STEPS = 1000
"""Optimizer steps before a made-up row comes again."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as the last stage would train it, and what it is fed."""

    model: Any
    recipe: Recipe
    device: torch.device
    samples: Sequence[Any]
    """Training rows; of made-up ones their numbers."""
    mixture: Mixture | None
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    """Visits, each (sample, epoch, row) -> a batch with labels and ``sample_ids``."""
    question: Callable[[int], dict[str, Any]]
    """Number -> a prompt of one row with a picture."""
    makes_rows: bool
    """Whether making rows is part of the work, or were they made up."""

    @property
    def stage(self) -> str:
        return list(self.recipe.stages)[-1]


def architecture_of(recipe: Recipe) -> dict[str, Any]:
    """Of the recipe's model: what the recipe says itself, else the base's own config."""
    return recipe.model.architecture or config_of(recipe.model.name).to_dict()


def _made_up(recipe: Recipe, asked: Asked, device: torch.device) -> Subject:
    set_seed(recipe.seed)
    model: Any = random_base(architecture_of(recipe), device)
    encoder: TextEncoder | None = None
    for name, stage in recipe.stages.items():
        set_seed(stage_seed(recipe.seed, name))
        places = build_all(stage.train)
        if encoder is None and any(method.reads_question for method in places.values()):
            assert recipe.question.text_encoder is not None, "the plan refused it"
            encoder = random_text_encoder(recipe.question.text_encoder, VLM.of(model))
        set_stage(model, None, places, text_encoder=encoder)
    per_picture = tokens_of_picture(model, asked.side) if asked.images else 0
    last = list(recipe.stages.values())[-1]
    shape = batch_shape(last, model, asked, per_picture)
    prompt = shape.tokens - shape.answer_tokens
    asking = BatchShape(rows=1, tokens=prompt, answer_tokens=0, images=shape.images, side=shape.side)

    def collate(visits: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
        numbers = [row for _, _, row in visits]
        return {**made_up_batch(model, shape, numbers[0]), "sample_ids": [str(number) for number in numbers]}

    def question(number: int) -> dict[str, Any]:
        return made_up_batch(model, asking, number)

    return Subject(
        model=model, recipe=recipe, device=device, samples=range(MADE_UP_STEPS * last.batch), mixture=None,
        collate=collate, question=question, makes_rows=False,
    )  # fmt: skip


def _own(recipe: Recipe, device: torch.device) -> Subject:
    set_seed(recipe.seed)
    model, processor = load_base(recipe.model.name)
    for name in recipe.stages:
        begin_stage(model, processor, recipe, name)
    stage = list(recipe.stages.values())[-1]
    mixture = mix(stage.used_data)
    seen = [row for row, sample in enumerate(mixture.samples) if sample.images]
    if not seen:
        raise DataError("no row with a picture", where=stage.data[0].path, fix="name data with pictures")
    collate = stage_collator(recipe, list(recipe.stages)[-1], model, processor)

    def question(number: int) -> dict[str, Any]:
        row = seen[number % len(seen)]
        asked: Sample = mixture.samples[row].asked(recipe.seed, 0, row)
        return prompt_batch(processor, [asked])

    return Subject(
        model=model.to(device), recipe=recipe, device=device, samples=mixture.samples, mixture=mixture,
        collate=collate, question=question, makes_rows=True,
    )  # fmt: skip


def load_subject(recipe: Recipe, made_up: Asked | None, device: torch.device) -> Subject:
    """The recipe's own base and rows, or with ``made_up`` neither: that says what rows are like."""
    return _own(recipe, device) if made_up is None else _made_up(recipe, made_up, device)
