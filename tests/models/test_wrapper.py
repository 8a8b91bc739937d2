"""What the class swap tells the library: the classes that sharding must not split."""

import copy
import pickle

import pytest

import yarbus
from tests import tiny
from tests.models.test_families import attached, plain
from yarbus.models.vlm import VLM


@pytest.mark.parametrize("name", list(tiny.EVERY))
def test_no_vision_block_is_split_by_sharding(name, text_encoder):
    model, _ = plain(name)
    before = set(model._no_split_modules)
    model, processor = attached(name, text_encoder)
    blocks = {type(block).__name__ for block in VLM.of(model).blocks()}
    assert model._no_split_modules == before | blocks
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # noqa: S301
    assert twin._no_split_modules == before | blocks
    yarbus.detach(model, processor)
    assert model._no_split_modules == before


def test_idefics3_alone_would_leave_its_experts_in_the_root_s_unit(text_encoder):
    assert "Idefics3EncoderLayer" not in plain("idefics3")[0]._no_split_modules
    assert "Idefics3EncoderLayer" in attached("idefics3", text_encoder)[0]._no_split_modules
