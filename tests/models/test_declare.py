"""A model that Yarbus does not know: the error that says so, and the two values with which it works from then on."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from transformers import GenerationMixin, LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.tiny.llava import finished, llama
from yarbus.core.errors import ConfigError
from yarbus.methods import CoVFT, LoRA
from yarbus.models.attachment import parameter_groups
from yarbus.models.vlm import FAMILIES, TOWERS, VLM, Family, ImageUnits, Tower, constant_lengths, declare


class SieveConfig(PretrainedConfig):
    model_type = "sieve"

    def __init__(self, width: int = 32, depth: int = 3, heads: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.width, self.depth, self.heads = width, depth, heads


class PeepholeConfig(PretrainedConfig):
    model_type = "peephole"
    sub_configs: ClassVar = {"eyes": SieveConfig, "text_config": LlamaConfig}

    def __init__(self, eyes=None, text_config=None, image_token_id: int = 3, **kwargs):
        self.eyes, self.text_config, self.image_token_id = eyes, text_config, image_token_id
        super().__init__(**kwargs)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.before, self.after = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.mix, self.out = nn.Linear(config.width, 3 * config.width), nn.Linear(config.width, config.width)
        self.think = nn.ModuleDict({"wide": nn.Linear(config.width, 48), "narrow": nn.Linear(48, config.width)})
        self.think.forward = lambda x: self.think["narrow"](nn.functional.silu(self.think["wide"](x)))
        self.heads = config.heads

    def forward(self, x):
        parts = self.mix(self.before(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in parts)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.think(self.after(x))


class Sieve(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.patches = nn.Conv2d(3, config.width, 14, 14)
        self.stack = nn.ModuleList([Layer(config) for _ in range(config.depth)])
        self.hint = nn.Parameter(torch.zeros(config.width))

    def forward(self, pixel_values):
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.stack:
            x = layer(x)
        return x


class PeepholeModel(PreTrainedModel):
    config_class = PeepholeConfig

    def __init__(self, config):
        super().__init__(config)
        self.eyes, self.mind = Sieve(config.eyes), LlamaModel(config.text_config)
        self.bridge = nn.Linear(config.eyes.width, config.text_config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.mind.embed_tokens

    def forward(self, input_ids=None, pixel_values=None, inputs_embeds=None, **kwargs):
        embeds = self.mind.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if pixel_values is not None:
            seen = self.bridge(self.eyes(pixel_values))
            embeds = embeds.masked_scatter((input_ids == self.config.image_token_id)[..., None], seen.to(embeds))
        return self.mind(inputs_embeds=embeds, **kwargs)


class PeepholeForConditionalGeneration(PreTrainedModel, GenerationMixin):
    config_class, base_model_prefix = PeepholeConfig, "body"

    def __init__(self, config):
        super().__init__(config)
        self.body = PeepholeModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.body.get_input_embeddings()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, pixel_values=None, attention_mask=None, labels=None, **kwargs):
        states = self.body(input_ids, pixel_values, attention_mask=attention_mask, **kwargs)
        logits = self.lm_head(states.last_hidden_state)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=states.past_key_values)


def one_row_each(config, kwargs, placeholders):
    pixel_values = kwargs["pixel_values"]
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=constant_lengths(len(pixel_values), placeholders, pixel_values.device),
    )


PEEPHOLE = Family(
    config="PeepholeConfig", vision_tower="eyes", projector="bridge", language_model="mind", vision_config="eyes",
    units=one_row_each,
)  # fmt: skip
SIEVE = Tower(
    config="SieveConfig", blocks=("stack",), feed_forward="think", linears=("wide", "narrow"), activation="silu",
    norms=("before", "after"), attention=("mix", "out"), dim="width", num_heads="heads", unused=("hint",),
)  # fmt: skip


@pytest.fixture
def peephole(monkeypatch):
    """The unknown model with a Llava's processor, in a process whose tables are put back afterwards."""
    for table in (FAMILIES, TOWERS):
        monkeypatch.setattr(table, "_own", dict(table._entries))
    _, processor = tiny.llava()
    torch.manual_seed(0)
    config = PeepholeConfig(SieveConfig(), llama(processor.tokenizer), pad_token_id=0, eos_token_id=2)
    return finished(PeepholeForConditionalGeneration(config)), processor


def test_an_unknown_model_is_told_what_was_looked_for_what_was_found_and_how_to_declare_it(peephole):
    model, processor = peephole
    with pytest.raises(ConfigError) as error:
        yarbus.attach(model, processor, vision="full")
    message = str(error.value)
    assert "no model family for 'PeepholeConfig' - looked for the config's class name" in message
    assert "found eyes (Sieve), mind (LlamaModel), bridge (Linear)" in message
    assert "supported: " in message and "LlavaConfig" in message and "Qwen2_5_VLConfig" in message
    assert "fix: declare it: yarbus.models.vlm.declare(Family(config='PeepholeConfig', ...))" in message
    assert not hasattr(model.base_model, "context_attachment")


def test_an_unknown_tower_is_told_which_blocks_were_found(peephole):
    model, _ = peephole
    declare(PEEPHOLE)
    with pytest.raises(ConfigError) as error:
        VLM.of(model)
    message = str(error.value)
    assert "no vision tower for 'SieveConfig'" in message
    assert "found stack (3 x Layer: before, after, mix, out, think)" in message
    assert "CLIPVisionConfig" in message and "declare(Tower(config='SieveConfig', ...))" in message


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        ("vision_tower", "eye", "no vision tower at 'eye': PeepholeModel"),
        ("projector", "eyes.bridge", "no projector at 'eyes.bridge': PeepholeModel"),
        ("vision_config", "vision_config", "no vision config at 'vision_config': PeepholeConfig"),
    ],
)
def test_a_family_with_a_wrong_path_is_told_which(field, path, message, peephole):
    model, _ = peephole
    declare(SIEVE)
    declare(replace(PEEPHOLE, **{field: path}))
    with pytest.raises(ConfigError, match=message):
        VLM.of(model)


@pytest.mark.parametrize("method", [CoVFT(num_experts=3, context_dim=16), LoRA(rank=2)], ids=["covft", "lora"])
def test_a_declared_model_is_one_like_any_other(method, peephole, text_encoder, pictures, tmp_path):
    model, processor = peephole
    declare(PEEPHOLE)
    declare(SIEVE)
    with torch.no_grad():
        expected = model(**ask(processor, pictures[:2])).logits
    yarbus.attach(model, processor, vision=method, projector="full", language="full", text_encoder=text_encoder)
    batch = ask(processor, pictures[:2], [QUESTIONS[0]] * 2)
    other = ask(processor, pictures[:2], [QUESTIONS[0], "where digit is blue ?"])
    with torch.no_grad():
        torch.testing.assert_close(model(**ask(processor, pictures[:2])).logits, expected, atol=1e-5, rtol=0)
        assert torch.equal(model(**batch).logits[0], model(**other).logits[0])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    declared = {name for group in parameter_groups(model).values() for name in group}
    assert declared == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "body.eyes.hint" not in declared and model.generate(**batch, max_new_tokens=2).shape[0] == 2
    yarbus.save_adapter(model, tmp_path, processor)
    torch.manual_seed(0)
    again = finished(PeepholeForConditionalGeneration(model.config))
    loaded, _ = yarbus.load_adapter(again, tiny.llava()[1], tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)
