"""A recipe that gives the head further encoders: draws first, then choices, and a resume that repeats them."""

from pathlib import Path

import pytest

from tests.tiny.further_encoders import encoder_folder
from tests.training.conftest import stage
from tests.training.runs import StopAt, Stopped, final_hash
from yarbus.core.recipe import load_recipe
from yarbus.models.attachment import attachment_of
from yarbus.training.planning import plan_recipe
from yarbus.training.stages import train


@pytest.fixture
def recipe(base: Path, data: Path):
    head = {"method": "carpe", "num_heads": 4, "encoders": {kind: encoder_folder(kind) for kind in ("clip", "siglip")}}
    router = {"peak": 1e-2, "frozen_fraction": 0.5}
    rates = {"projector": 1e-3, "head": 1e-3, "router": router}
    one = stage(data, {"projector": "full", "head": head}, rates, steps=4, log_every=1)
    return load_recipe({"model": {"base": str(base)}, "stages": {"instruct": one}, "seed": 3})


class Choices:
    """Notes what each micro-batch chose, and how."""

    def __init__(self):
        self.seen = []

    def __call__(self, step, model, sample_ids):
        slot = attachment_of(model).slot
        if slot.recorder is None:
            slot.recorder = slot.recording().__enter__()
        choices, probabilities = (
            slot.recorder.of(f"encoder_{kind}").get(0, []) for kind in ("choice", "probabilities")
        )
        self.seen.append([(c.tolist(), p.argmax(dim=1).tolist()) for c, p in zip(choices, probabilities, strict=True)])
        slot.recorder.records.clear()


def test_encoders_are_drawn_until_the_prompt_trains_and_a_resume_draws_them_again(recipe, tmp_path):
    whole, parted = Choices(), Choices()
    train(recipe, tmp_path / "whole", progress=False, readers=[whole])
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "parted", progress=False, readers=[StopAt(1, 3), parted])
    train(recipe, tmp_path / "parted", progress=False, readers=[parted])
    assert final_hash(tmp_path / "parted") == final_hash(tmp_path / "whole")
    drawn, chosen = whole.seen[1], [pair for step in whole.seen[2:] for pair in step]
    assert len(drawn) == 2 and any(choice != best for choice, best in drawn)
    assert len(chosen) == 4 and all(choice == best for choice, best in chosen)


def test_the_plan_names_what_the_encoders_weigh(recipe):
    plan = plan_recipe(recipe)[0]
    frozen = next(row for row in plan.plan.rows if row.place == "head" and not row.group)
    assert frozen.parameters > 10_000 and not frozen.trained
    assert plan.rates["router"] == {"peak": 1e-2, "frozen_fraction": 0.5}
