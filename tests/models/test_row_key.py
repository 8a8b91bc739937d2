"""What keys random draws: a row's tokens, or a number that comes with the batch; and who hands out the numbers."""

import json

import pytest
import torch

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_sketch import splitmix64
from tests.training.conftest import base, data, stage  # noqa: F401 - fixtures
from tests.training.runs import StopAt, Stopped, final_hash
from yarbus.core.errors import DataError
from yarbus.core.recipe import load_recipe
from yarbus.data.collate import Collator
from yarbus.data.sample import Sample, Turn
from yarbus.methods import CoVFT
from yarbus.models.context import row_keys
from yarbus.models.sketch import hashed, key_of
from yarbus.training import stages
from yarbus.training.stages import train

RANDOM = CoVFT(num_experts=4, routing="random")
NUMBERS = 2**64


class Config:
    """Of a model whose padding token is 0."""

    pad_token_id = 0

    def get_text_config(self):
        return self


def keys_of(rows, mask=None):
    return row_keys(Config(), torch.tensor(rows), None if mask is None else torch.tensor(mask)).tolist()


def as_int64(number):
    number %= NUMBERS
    return number - NUMBERS if number >= NUMBERS // 2 else number


def test_hashes_of_tensors_are_those_of_whole_numbers():
    numbers, keys = torch.tensor([[0], [7], [-3]]), torch.tensor([5, -(2**63)])
    expected = [
        [as_int64(splitmix64((n * 0x9E3779B97F4A7C15 + k) % NUMBERS)) for k in keys.tolist()]
        for n in numbers[:, 0].tolist()
    ]
    assert hashed(numbers, keys).tolist() == expected
    assert numbers.tolist() == [[0], [7], [-3]]


def test_a_rows_key_is_its_tokens_without_padding_wherever_that_is():
    (alone,) = keys_of([[5, 6, 7]])
    assert keys_of([[5, 6, 7, 0, 0], [9, 9, 9, 9, 9]])[0] == alone
    assert keys_of([[0, 0, 5, 6, 7], [8, 8, 8, 8, 8]])[0] == alone
    assert keys_of([[4, 4, 5, 6, 7]], mask=[[0, 0, 1, 1, 1]])[0] == alone
    assert keys_of([[5, 6, 7]], mask=[[[1, 1, 1]]])[0] == alone  # a mask of another shape says nothing of padding
    others = keys_of([[5, 7, 6], [5, 6, 8], [6, 6, 7], [5, 6, 0], [0, 0, 0]])
    assert len({alone, *others}) == 6


def image_keys(model, batch):
    """What the tower's modules find in the slot."""
    seen = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(
        lambda *_: seen.append(model.model.context_slot.read().image_keys)
    )
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen[0]


@pytest.fixture
def parts():
    model, processor = tiny.llava()
    return yarbus.attach(model, processor, vision=RANDOM)


def test_every_image_has_a_key_of_its_own_that_goes_with_its_row(parts, pictures):
    model, processor = parts
    batch = ask(processor, pictures, QUESTIONS[:3], images_per_row=2)
    keys = image_keys(model, batch)
    assert keys.dtype == torch.int64 and len(set(keys.tolist())) == 6
    order = [2, 0, 1]
    shuffled = ask(processor, pictures, [QUESTIONS[i] for i in order], images_per_row=2)
    assert torch.equal(image_keys(model, shuffled), keys.view(3, 2)[order].flatten())
    assert torch.equal(image_keys(model, ask(processor, pictures, QUESTIONS[:1], images_per_row=2)), keys[:2])


def test_a_number_that_comes_with_the_batch_is_the_key_instead(parts, pictures):
    model, processor = parts
    batch = ask(processor, pictures, [QUESTIONS[0]] * 2)
    first, second = image_keys(model, batch)
    assert first == second
    keyed = image_keys(model, {**batch, "context_row_key": torch.tensor([3, 4])})
    assert keyed[0] != keyed[1] and first not in keyed
    assert torch.equal(image_keys(model, {**batch, "context_row_key": torch.tensor([3, 4])}), keyed)


def test_embeddings_alone_have_no_key_and_random_routing_says_so(parts, pictures):
    model, processor = parts
    batch = dict(ask(processor, pictures))
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    batch |= {"inputs_embeds": embeds, "context_image_counts": torch.tensor([1, 1])}
    with pytest.raises(DataError, match="no key for random routing.*context_row_key"):
        model(**batch)
    with torch.no_grad():
        model(**batch, context_row_key=torch.tensor([1, 2]))


@pytest.mark.parametrize("options", [{"use_cache": False}, {"num_beams": 2}, {"context_row_key": torch.tensor([8, 9])}])
def test_generation_draws_once_for_a_prompt(parts, pictures, options):
    model, processor = parts
    batch = ask(processor, pictures)
    given = {key: value for key, value in options.items() if key.startswith("context_")}
    with model.model.context_slot.recording() as recorder:
        with torch.no_grad():
            model(**batch, **given)
        model.generate(**batch, **options, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    for first, *later in recorder.of("routing_weights").values():
        assert later
        for weights in later:  # on older versions rows are expanded to beams, and every step may see the images again
            assert torch.equal(weights, first.repeat_interleave(len(weights) // len(first), dim=0))


def test_the_collator_numbers_visits_where_it_is_told_to(pictures):
    processor = tiny.llava()[1]
    sample = Sample("1", (), (Turn("user", "what ?"), Turn("assistant", "one")), where="here")
    visits = [(sample, 0, 0), (sample, 0, 1), (sample, 1, 0)]
    assert "context_row_key" not in Collator(processor)(visits)
    keys = Collator(processor, row_keys=True, seed=3)(visits)["context_row_key"]
    assert keys.dtype == torch.int64 and len(set(keys.tolist())) == 3
    assert keys[2] == key_of("visit", "3", "1", "0")
    assert torch.equal(Collator(processor, row_keys=True, seed=3)(visits[1:])["context_row_key"], keys[1:])
    assert Collator(processor, row_keys=True, seed=4)(visits[:1])["context_row_key"][0] != keys[0]


def recipe_of(base, data, vision, **settings):  # noqa: F811
    random = stage(data, {"vision": vision}, {"vision_new": 1e-3, "vision": 1e-3}, **settings)
    align = stage(data, {"projector": "full"}, {"projector": 1e-2}, steps=1, checkpoint_every=1)
    return load_recipe({"model": {"base": str(base)}, "stages": {"align": align, "instruct": random}, "seed": 3})


def test_a_stage_numbers_visits_only_for_a_method_that_draws(base, data, tmp_path, monkeypatch):  # noqa: F811
    asked = []

    def collator(*args, row_keys, **kwargs):
        asked.append(row_keys)
        return Collator(*args, row_keys=row_keys, **kwargs)

    monkeypatch.setattr(stages, "Collator", collator)
    recipe = recipe_of(base, data, {"method": "covft", "num_experts": 3, "routing": "random"}, steps=1)
    train(recipe, tmp_path / "run", progress=False)
    assert asked == [False, True]  # the first stage's model is a plain one, which would not know the key


def test_a_resumed_run_draws_what_it_would_have_drawn(base, data, tmp_path):  # noqa: F811
    recipe = recipe_of(base, data, {"method": "covft", "num_experts": 3, "routing": "random"})
    whole = train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "cut", progress=False, readers=[StopAt(stage=2, step=4)])
    resumed = train(recipe, tmp_path / "cut", progress=False)
    assert final_hash(resumed) == final_hash(whole)
    assert json.loads((whole / "adapter" / "adapter.json").read_text())["places"]["vision"]["routing"] == "random"
