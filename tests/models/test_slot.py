"""What the slot offers to methods of every place, used by dummy methods the way real ones will."""

import copy
import pickle
import sys
from dataclasses import dataclass
from threading import Thread
from typing import ClassVar

import pytest
import torch
from torch import nn

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import ConfigError, DataError
from yarbus.methods import CoVFT
from yarbus.models.attach import set_stage
from yarbus.models.attachment import Method
from yarbus.models.images import ImageMap
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import TOWERS, VLM, Tower, declare


class ScaledProjector(nn.Module):
    """Scales what leaves the projector by the length of the question, per image."""

    def __init__(self, projector, slot):
        super().__init__()
        self.projector, self.slot = projector, slot
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, features):
        output = self.projector(features)
        context = self.slot.read()
        context.projector.check(output)
        words = context.question().mask.sum(dim=1)[context.projector.rows]
        return output * (1 + self.weight * context.projector.spread(words[:, None].float()))


@dataclass(frozen=True, kw_only=True)
class QuestionLength(Method):
    name: ClassVar[str] = "question-length"
    places: ClassVar[tuple[str, ...]] = ("projector",)
    start: ClassVar[str] = "identity"

    @property
    def reads_question(self):
        return True

    def groups(self, place):
        return ("projector",)

    def attach(self, vlm, place, attachment):
        module = ScaledProjector(vlm.projector, attachment.slot)
        attachment.replace(vlm, vlm.base_model, vlm.family.projector, module)
        attachment.train([module.weight], group="projector")


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_projector_method_reads_the_question_of_each_image(family, text_encoder, pictures):
    model, processor = tiny.FAMILIES[family]()
    set_stage(model, processor, {"projector": QuestionLength()}, text_encoder=text_encoder)
    projector = VLM.of(model).projector
    batch = ask(processor, pictures, [QUESTIONS[0]] * 2, context=["what", "what digit is red"])
    with torch.no_grad():
        plain = model(**batch).logits
        projector.weight.fill_(0.1)
        scaled = model(**batch).logits
        other = ask(processor, pictures, [QUESTIONS[0]] * 2, context=["what", "what digit is"])
        assert torch.equal(model(**other).logits[0], scaled[0])
        assert not torch.equal(model(**other).logits[1], scaled[1])
    assert not torch.equal(plain, scaled)
    model(**batch).logits.sum().backward()
    assert projector.weight.grad is not None
    yarbus.detach(model, processor)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_token_states_pooled_vector_and_question_flags_stand_by_row(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    seen = []
    projector = VLM.of(model).projector
    projector.register_forward_hook(lambda *_: seen.append(model.model.context_slot.read()))
    with torch.no_grad():
        model(**ask(processor, pictures, [QUESTIONS[0]] * 3, context=["what digit", "", "where"]))
    text = seen[0].text
    assert text.tokens.shape == (3, 4, 16) and text.pooled.shape == (3, 16)
    assert text.mask.sum(dim=1).tolist() == [4, 2, 3]
    assert text.has_question.tolist() == [True, False, True]
    assert torch.equal(text.tokens[:, 0], text.pooled)
    assert not text.tokens[1, 2:].any()
    assert seen[0].tower.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_the_recorder_gets_context_routing_and_gaze_of_every_block_once(family, text_encoder, pictures):
    model, processor = attached(family, text_encoder, METHODS["cve-dense"])
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = ask(processor, pictures)
    with model.model.context_slot.recording() as recorder:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    blocks = [1, 2] if family == "llava" else [2, 3]
    for kind, last_axis in (("context", 16), ("routing_weights", 3), ("gaze", 4)):
        found = recorder.of(kind)
        assert list(found) == blocks
        assert all(len(values) == 1 and values[0].shape[-1] == last_axis for values in found.values())
    weights = recorder.of("routing_weights")[blocks[0]][0]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2))
    assert model.model.context_slot.recorder is None


def test_packed_images_are_treated_as_if_each_stood_alone():
    torch.manual_seed(0)
    lengths = torch.tensor([4, 1, 7])
    packed = ImageMap(torch.tensor([0, 0, 1]), lengths)
    tokens, logits = torch.randn(12, 5), torch.randn(12, 2) * 30
    weights, biases = torch.randn(3, 6, 5), torch.randn(3, 6)
    shares = packed.softmax(logits)
    pooled, mapped, start = packed.weighted_sum(shares, tokens), packed.linear(tokens, weights, biases), 0
    for image, length in enumerate(lengths.tolist()):
        part = slice(start, start + length)
        expected = logits[part].softmax(dim=0)
        torch.testing.assert_close(shares[part], expected)
        torch.testing.assert_close(pooled[image], expected.T @ tokens[part])
        torch.testing.assert_close(mapped[part], tokens[part] @ weights[image].T + biases[image])
        assert packed.spread(torch.arange(3)[:, None])[part].eq(image).all()
        start += length
    with pytest.raises(RuntimeError, match="13 tokens"):
        packed.check(torch.zeros(13, 5))


def test_a_tower_declared_by_the_user_works_like_one_of_ours(text_encoder, pictures):
    from transformers import AutoModel, LlavaForConditionalGeneration
    from transformers.models.clip import CLIPVisionConfig, CLIPVisionModel

    class EyeConfig(CLIPVisionConfig):
        model_type = "test_eye"

    class Eye(CLIPVisionModel):
        config_class = EyeConfig

    from transformers import AutoConfig

    AutoConfig.register("test_eye", EyeConfig, exist_ok=True)
    AutoModel.register(EyeConfig, Eye, exist_ok=True)
    model, processor = tiny.llava()
    config = model.config
    vision = {key: value for key, value in config.vision_config.to_dict().items() if key != "model_type"}
    config.vision_config = EyeConfig(**vision)
    mine = LlavaForConditionalGeneration(config).eval()
    if "EyeConfig" not in TOWERS:
        with pytest.raises(
            ConfigError, match=r"no vision tower for 'EyeConfig' - looked for.*supported: CLIPVisionConfig.*declare"
        ):
            yarbus.attach(mine, processor, vision="full")
        declare(
            Tower(
                config="EyeConfig", blocks=("encoder.layers",), feed_forward="mlp", linears=("fc1", "fc2"),
                activation="hidden_act", norms=("layer_norm1", "layer_norm2"), attention=("self_attn.q_proj",),
                prefix_tokens=1, dead_tail=("post_layernorm",),
            )
        )  # fmt: skip
    batch = ask(processor, pictures)
    with torch.no_grad():
        expected = mine(**batch).logits
        yarbus.attach(mine, processor, vision=CoVFT(num_experts=2, context_dim=16), text_encoder=text_encoder)
        torch.testing.assert_close(mine(**ask(processor, pictures)).logits, expected, atol=1e-5, rtol=0)


def test_with_a_text_per_turn_the_tower_answers_to_the_last_one(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    batch = ask(processor, pictures, [QUESTIONS[0]] * 2, context=["where", "what digit"])
    with torch.no_grad():
        expected = model(**batch).logits
        for name in ("context_input_ids", "context_attention_mask"):
            other = batch[name].flip(0)
            batch[name] = torch.stack([other, batch[name]], dim=1)
        assert torch.equal(model(**batch).logits, expected)
        batch["context_attention_mask"][1] = 0
        with pytest.raises(DataError, match="row 1"):
            model(**batch)


# ---- threads ----


@pytest.fixture
def often():
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*tasks):
    """What each task returns, all run in threads of their own."""
    found = [None] * len(tasks)

    def keep(number, task):
        try:
            found[number] = task()
        except Exception as error:
            found[number] = error

    threads = [Thread(target=keep, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


def asked_about(processor, pictures, question):
    return ask(processor, pictures[:1], QUESTIONS[:1], context=[question])


def test_forwards_of_several_threads_keep_their_own_questions(text_encoder, pictures, often):
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    batches = [asked_about(processor, pictures, question) for question in QUESTIONS[:3]]
    model.base_model.context_encoder.cache_bytes = 1  # texts push each other out

    def several(batch, number):
        with torch.no_grad():
            return [model(**batch).logits for _ in range(number)]

    expected = [several(batch, 1)[0] for batch in batches]
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    for logits, alone in zip(at_once(*(lambda b=batch: several(b, 20) for batch in batches)), expected, strict=True):
        assert all(torch.equal(one, alone) for one in logits)


def test_a_thread_without_a_forward_has_no_context_while_another_has_one(text_encoder, pictures):
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    seen = []

    def look(*_):
        seen.append(at_once(lambda: model.base_model.context_slot.context)[0])

    VLM.of(model).projector.register_forward_hook(look)
    with torch.no_grad():
        model(**ask(processor, pictures))
    assert seen == [None]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(model, batches):
    """Gradients of two forwards before one backward."""
    model.zero_grad()
    sum(model(**batch, labels=batch["input_ids"]).loss for batch in batches).backward()
    return gradients(model)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_in_several_threads_has_the_questions_of_its_own_forward(
    reentrant, text_encoder, pictures, often
):
    """Copies of a model share the slot: each is trained in a thread, at once."""
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    other = copy.deepcopy(model)
    mine, others = ([asked_about(processor, pictures, QUESTIONS[n]) for n in pair] for pair in ((0, 1), (2, 3)))
    expected = trained(model, mine), trained(other, others)
    for _ in range(3):
        found = at_once(lambda: trained(model, mine), lambda: trained(other, others))
        for one, wanted in zip(found, expected, strict=True):
            for name, gradient in one.items():
                assert torch.equal(gradient, wanted[name]), name


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_in_another_thread_recomputes_with_the_question_of_the_forward(reentrant, text_encoder, pictures):
    """As on a GPU, where autograd's own thread does it."""
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    batches = [asked_about(processor, pictures, question) for question in QUESTIONS[:2]]
    expected = trained(model, batches)
    model.zero_grad()
    loss = sum(model(**batch, labels=batch["input_ids"]).loss for batch in batches)
    at_once(loss.backward)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_a_pickled_slot_holds_nothing_of_a_forward_and_all_of_its_settings():
    slot = ContextSlot()
    slot.loss_scale = 0.5
    with slot.holding(Context(text=None, tower=None, projector=None)):
        again = pickle.loads(pickle.dumps(slot))  # noqa: S301
        assert slot.context is not None
    assert again.context is None and again.loss_scale == 0.5
    with again.holding(Context(text=None, tower=None, projector=None)):
        assert again.read().text is None
    with pytest.raises(DataError, match="no context for the vision tower"):
        again.read()


def test_nn_data_parallel_is_refused_with_the_reason(text_encoder):
    """It makes a replica of the model for each GPU by this call."""
    model, _ = attached("llava", text_encoder, METHODS["text-dense"])
    with pytest.raises(ConfigError, match=r"DataParallel is not supported.*questions of other rows.*torchrun"):
        model._replicate_for_data_parallel()
