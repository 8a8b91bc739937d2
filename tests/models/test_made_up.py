"""Models and batches that are made up are as costly as real ones: equal shapes, other numbers, nothing downloaded."""

import pytest
import torch
from transformers import AutoConfig, BertConfig

import yarbus
from tests import tiny
from yarbus.core.errors import ConfigError
from yarbus.models.load import random_base
from yarbus.models.made_up import made_up_batch
from yarbus.models.shape_batch import BatchShape, shape_batch
from yarbus.models.text_encoder import random_text_encoder
from yarbus.models.vlm import VLM

SHAPE = BatchShape(rows=3, tokens=24, answer_tokens=4, images=1, side=28, question_tokens=6)
CPU = torch.device("cpu")


def conditioned(family, text_encoder):
    model, processor = tiny.FAMILIES[family]()
    method = {"method": "covft", "num_experts": 2, "context_dim": 16}
    return yarbus.attach(model, processor, vision=method, text_encoder=text_encoder)[0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_made_up_batch_has_shapes_pictures_and_answers_of_a_planned_one(family, text_encoder):
    model = conditioned(family, text_encoder)
    planned, made = shape_batch(model, SHAPE), made_up_batch(model, SHAPE, seed=1)
    assert {name: value.shape for name, value in made.items()} == {name: v.shape for name, v in planned.items()}
    token = VLM.of(model).image_token_id
    assert torch.equal(made["input_ids"] == token, planned["input_ids"] == token)
    assert torch.equal(made["labels"] >= 0, planned["labels"] >= 0)
    assert torch.equal(made["labels"][:, -4:], made["input_ids"][:, -4:])
    assert made["pixel_values"].std() > 0.5 and len(made["input_ids"].unique()) > 5
    assert torch.isfinite(model(**made).loss)


def test_each_row_asks_another_question_and_a_seed_gives_the_same_batch(text_encoder):
    model = conditioned("llava", text_encoder)
    one, again, other = (made_up_batch(model, SHAPE, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    questions = torch.cat([one["context_input_ids"], other["context_input_ids"]])
    assert len(questions.unique(dim=0)) == 6


def test_a_random_base_has_the_architecture_and_differs_by_seed():
    model, _ = tiny.llava()
    config = model.config.to_dict()
    torch.manual_seed(0)
    one, other = random_base(config, CPU), random_base(config, CPU)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in one.state_dict().items()} == shapes
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert {tensor.dtype for tensor in one.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="model_type"):
        random_base({"hidden_size": 3}, CPU)


def test_a_random_text_encoder_is_as_large_as_the_named_one_or_as_bert(text_encoder, monkeypatch):
    vlm, small = VLM.of(tiny.llava()[0]), BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    encoder = random_text_encoder(text_encoder, vlm)
    assert encoder.dim == 16 and encoder.num_words == AutoConfig.from_pretrained(text_encoder).vocab_size
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    table = random_text_encoder("language_embeddings", vlm)
    assert table.dim == vlm.language_dim and table.num_words == vlm.config.text_config.vocab_size
    monkeypatch.setattr("yarbus.models.text_encoder.BertConfig", lambda: small)
    assert random_text_encoder("nobody/has-this", vlm).dim == 24
