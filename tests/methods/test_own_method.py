"""A method of somebody else, as docs/how-to/add-a-method.md defines it: short, and at home everywhere at once."""

import ast
from pathlib import Path

import pytest
import torch

import yarbus
from tests import tiny
from tests.docs.pages import blocks
from tests.matrix import test_rows, test_saving, test_start, test_training
from tests.matrix.cells import Cell
from tests.methods import cases
from tests.models.batches import ask
from yarbus.core.errors import ConfigError
from yarbus.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md"


@pytest.fixture
def ssf(monkeypatch):
    """The page's method, declared for one test."""
    for table in METHODS.values():
        monkeypatch.setattr(table, "_own", dict(table._entries))
    namespace = {"__name__": "page"}
    exec(compile(blocks(PAGE, "python")[0].text, str(PAGE), "exec"), namespace)
    method = namespace["SSF"]
    monkeypatch.setitem(cases.CASES, "vision ssf", cases.Case("vision", method(first_block=1)))
    return method


def test_it_is_shorter_than_60_lines():
    source = blocks(PAGE, "python")[0].text
    assert ast.parse(source) and len(source.splitlines()) < 60


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_invariant_of_the_shipped_methods_holds_for_it(family, ssf, text_encoder, pictures, tmp_path):
    cell = Cell(family, "vision ssf")
    case = (cell, text_encoder, pictures)
    test_start.test_attaching_changes_what_start_declares_and_detaching_restores_every_bit(*case)
    test_start.test_all_that_is_declared_has_a_gradient_and_nothing_else(*case)
    test_start.test_a_step_moves_what_is_declared_and_nothing_else(*case)
    test_rows.test_rows_may_be_permuted(*case)
    test_start.test_a_copy_is_a_model_of_its_own(*case)
    for kind in ("adapter", "full"):
        test_saving.test_what_is_saved_is_what_is_loaded(cell, kind, text_encoder, pictures, tmp_path / kind)
    for reentrant in (True, False):
        test_training.test_checkpointing_gives_equal_gradients_over_two_forwards(
            cell, reentrant, text_encoder, pictures
        )


def test_its_name_and_options_are_checked_as_any_others(ssf):
    model, processor = tiny.llava()
    with pytest.raises(ConfigError, match="use one of: first_block"):
        yarbus.attach(model, processor, vision={"method": "ssf", "first": 1})
    yarbus.attach(model, processor, vision="ssf")
    assert {row.method for row in yarbus.plan(model).rows if row.place == "vision"} == {"ssf"}


def test_its_scale_and_shift_are_what_the_next_block_sees(ssf, pictures):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision=ssf())
    batch, seen = ask(processor, pictures), {}
    blocks_of = model.model.vision_tower.encoder.layers
    blocks_of[0].mlp.register_forward_hook(lambda module, args, output: seen.__setitem__("plain", output))
    blocks_of[1].register_forward_pre_hook(lambda module, args: seen.__setitem__("next", args[0]))
    with torch.no_grad():
        model(**batch)
        before = seen["next"]
        blocks_of[0].ssf.scale.fill_(2.0)
        blocks_of[0].ssf.shift.fill_(1.0)
        model(**batch)
    torch.testing.assert_close(seen["next"], 2 * before + 1)
