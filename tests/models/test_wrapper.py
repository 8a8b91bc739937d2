"""What the class swap tells the library: the classes that sharding must not split, and what `generate` encodes."""

import copy
import pickle

import pytest
import torch

import yarbus
from tests import tiny
from tests.matrix.cells import BY_TEXT, attached, plain
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import DataError
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


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_words_may_be_given_to_generate_as_embeddings(options, text_encoder, pictures):
    """They hold no image tokens to count, so that the batch says how many images each row has."""
    model, processor = attached("llava", text_encoder, BY_TEXT)
    batch = dict(ask(processor, pictures[:2], [QUESTIONS[0]] * 2, context=QUESTIONS[:2]))
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, **options}
    expected = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    ids = batch.pop("input_ids")
    batch["inputs_embeds"] = model.get_input_embeddings()(ids).detach()
    with pytest.raises(DataError, match="inputs_embeds hold no image tokens.*pass context_image_counts"):
        model.generate(**batch, **options)
    counts = {"context_image_counts": torch.tensor([1, 1])}
    assert torch.equal(model.generate(**batch, **counts, **options), expected)
    both = model.generate(**batch, input_ids=ids, **options)  # the tokens tell it
    assert torch.equal(both[:, -3:], expected)
