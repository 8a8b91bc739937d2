"""Cells of the behaviour matrix: one method on one small model, and what every check needs of them.

``make test`` checks what ``chosen`` says: every model with CoVFT, and every method on the two models of
``tests.tiny.FAMILIES``. ``make matrix`` checks every method on every model (``tests.matrix.run``).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import yarbus
from tests import tiny
from tests.methods import cases
from tests.models.batches import ask
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT
from yarbus.models.attachment import Method, adapter_tensors, attachment_of

DENSE = CoVFT(num_experts=3, context_dim=16)
BY_TEXT = CoVFT(num_experts=3, context_dim=16, context="text")
USUAL = "vision covft cve dense"
"""The case that every model is checked with in ``make test``."""
OTHER = "where digit is blue ?"
"""As long as the first of ``tests.models.batches.QUESTIONS``."""
TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}
BASE_CANNOT = "base cannot: "


@cache
def built(name: str) -> tuple:
    return tiny.EVERY[name]()


def plain(name: str) -> tuple:
    """A model and its processor for one test alone."""
    return copy.deepcopy(built(name))


@dataclass(frozen=True)
class Cell:
    """One method on one small model."""

    model: str
    case: str

    def __str__(self) -> str:
        return f"{self.model} {self.case}"

    @property
    def place(self) -> str:
        return cases.CASES[self.case].place

    @property
    def method(self) -> Method:
        return cases.CASES[self.case].method

    def plain(self) -> tuple:
        """The model without the method."""
        return plain(self.model)

    def attach(self, text_encoder: str = "language_embeddings", **others: Any) -> tuple:
        """The model with the method, as ``attach`` leaves it; ``others`` are further places."""
        model, processor = self.plain()
        torch.manual_seed(1)  # of what is new
        return yarbus.attach(model, processor, **{**others, self.place: self.method}, text_encoder=text_encoder)

    def moved(self, text_encoder: str = "language_embeddings", **others: Any) -> tuple:
        """The model as it is after some training."""
        model, processor = self.attach(text_encoder, **others)
        return as_after_training(model), processor


def as_after_training(model: Any) -> Any:
    """Every tensor that trains or is new moved a little, so that what starts as zero matters; routers more, so that
    questions part."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            if tensor.is_floating_point():
                size = 0.5 if "router" in name else 0.05
                tensor += size * torch.randn(tensor.shape, generator=generator) * (1 + tensor.abs().mean())
            assert torch.isfinite(tensor).all(), name
    return model.eval()


def attached(name: str, text_encoder: str, method: CoVFT = DENSE, *, spread: bool = True, **places: Any) -> tuple:
    """A model with CoVFT, its experts pushed apart so that the question matters much."""
    model, processor = plain(name)
    torch.manual_seed(5)
    yarbus.attach(model, processor, vision=method, text_encoder=text_encoder, **places)
    if spread:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                is_ours = attachment_of(model).is_new(parameter_name)
                if is_ours and parameter_name.endswith(("down_weight", "router.weight", "key_weight", "query.weight")):
                    parameter += torch.randn(parameter.shape, generator=generator) * 0.5
    return model, processor


@cache
def refusal(cell: Cell) -> str | None:
    """Why the method refuses the model; None where it does not."""
    try:
        cell.attach()
    except ConfigError as error:
        assert error.why, f"{cell} is refused without a reason"
        return error.why
    return None


@torch.no_grad()
def logits(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).logits


@cache
def keeps_bits(name: str) -> bool:
    """Whether the unchanged model gives the same bits once it is frozen.

    Not where features reach the projector transposed (SigLIP's): torch multiplies those in another order then.
    """
    model, processor = plain(name)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2)]
    batch = ask(processor, pictures)
    before = logits(model, batch)
    return torch.equal(logits(model.requires_grad_(False), batch), before)


def assert_same(cell: Cell, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal bits between a model of which parts are frozen and one that trains whole, as far as the base has them."""
    if keeps_bits(cell.model):
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def loss(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch, labels=batch["input_ids"]).loss


def unchanged(cell: Cell, ours: Any) -> tuple:
    """The model without the method. Where the method inserts nothing, the same tensors train: that is all it does."""
    model, processor = cell.plain()
    if not attachment_of(ours).inserted:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(ours.get_parameter(name).requires_grad)
    return model, processor


@cache
def not_loaded(name: str) -> str | None:
    """Why the processor's own class does not load it from where it was saved; None where it does.

    Idefics3 and SmolVLM on transformers 5.17, without torchvision.
    """
    with TemporaryDirectory() as folder:
        processor = plain(name)[1]
        processor.save_pretrained(folder)
        try:
            type(processor).from_pretrained(folder)
        except (ImportError, OSError, ValueError) as error:
            return " ".join(str(error).replace(folder, "(folder)").split())[:300]
    return None


def holds(check: Callable[[Any, Any], None], cell: Cell, ours: tuple) -> None:
    """Runs a check on our model; one that it fails is excused where the unchanged model fails it too."""
    try:
        check(*ours)
    except Exception:
        try:
            check(*unchanged(cell, ours[0]))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            pytest.skip(f"{BASE_CANNOT}{type(error).__name__}: {reason}")
        raise


Applies = Callable[[Cell], bool]


def only(applies: Applies) -> pytest.MarkDecorator:
    """A check that says something about some methods alone."""
    return pytest.mark.only.with_args(applies)  # called with a function alone, a mark would mark that one


def trains(cell: Cell) -> bool:
    return bool(cell.method.groups(cell.place))


def hears(cell: Cell) -> bool:
    """Whether what the eyes see depends on the question."""
    return cell.method.reads_question


def weighs(cell: Cell) -> bool:
    """Whether a head depends on what was said."""
    return cell.method.reads_prompt


all_models = pytest.mark.scope(models=tuple(tiny.EVERY), cases=(USUAL,))
"""A check that in ``make test`` runs on every model with the usual method alone."""
two_models = pytest.mark.scope(models=tuple(tiny.FAMILIES), cases=(USUAL,), is_for_methods=False)
"""A slow one about the model rather than the method: with the usual method alone, in ``make matrix`` as well."""


def chosen(model: str | None, scope: dict[str, Any]) -> list[Cell]:
    """The cells of a check: all methods on one model, or what ``make test`` checks."""
    if model is not None:
        return [Cell(model, case) for case in (cases.CASES if scope.get("is_for_methods", True) else scope["cases"])]
    if scope:
        return [Cell(name, case) for name in scope["models"] for case in scope["cases"]]
    others = [Cell(name, case) for name in tiny.FAMILIES for case in cases.CASES if case != USUAL]
    return [Cell(name, USUAL) for name in tiny.EVERY] + others
