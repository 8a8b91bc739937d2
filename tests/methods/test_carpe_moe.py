"""CARPE-MoE: what the router chooses, whom it lets run, what comes back to it, and every way to generate."""

import inspect
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import yarbus
from tests import tiny
from tests.matrix.cells import as_after_training, logits
from tests.methods.shared_encoders import gradients_of, shared_model
from tests.methods.test_carpe import OPTIONS, families, stepwise
from tests.models.batches import QUESTIONS, ask
from tests.tiny.further_encoders import clip_vision, encoder_folder
from yarbus.core.errors import ConfigError, DataError, MismatchError
from yarbus.data.collate import Collator
from yarbus.data.sample import Sample, Turn
from yarbus.methods import CARPE, CoVFT
from yarbus.methods.encoders import Seen, together
from yarbus.methods.integrator import HeadLayer
from yarbus.models.attachment import adapter_tensors, attachment_of, parameter_groups
from yarbus.models.context import context_of
from yarbus.models.load import base_on_meta

BATCH_OF = ("context_picture_counts", "context_pixel_values_cumo", "context_pixel_values_siglip")


def folders(*kinds):
    return {kind: encoder_folder(kind) for kind in kinds}


def attached(family="llava", method=None, **others):
    model, processor = tiny.FAMILIES[family]()
    torch.manual_seed(1)
    method = method or CARPE(encoders=folders("cumo", "siglip"))
    yarbus.attach(model, processor, head=method, **others)
    return as_after_training(model), processor


def mixture_of(model):
    return model.model.context_head.mixture


def encoders_of(model):
    return model.model.context_vision_encoders


def context(model, batch):
    return context_of(model.model, batch["input_ids"], batch, batch)


def states_of(model, batch):
    """What the router reads of each row."""
    head = model.model.context_head
    with torch.no_grad(), head.slot.holding(context(model, batch)):
        return head._last_states(model.model)


def route(model, processor, wanted, pictures, sharp=8.0):
    """Weights of the router with which each of the first questions takes the encoder of this number."""
    states = states_of(model, ask(processor, pictures[: len(wanted)], QUESTIONS[: len(wanted)]))
    router = mixture_of(model).router
    with torch.no_grad():
        target = sharp * F.one_hot(torch.tensor(wanted), len(mixture_of(model).names)).float()
        router.weight.copy_(torch.linalg.lstsq(states, target).solution.T)
        router.bias.zero_()


def recorded(model, batch, *kinds):
    with torch.no_grad(), attachment_of(model).slot.recording() as recorder:
        model(**batch)
    return [recorder.of(kind)[0][0] for kind in kinds]


def counted(model):
    """How many pictures each encoder saw, as forwards go on."""
    seen = {name: [] for name in encoders_of(model)}
    for name, encoder in encoders_of(model).items():
        encoder.model.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen[name].append(len(kwargs["pixel_values"])), with_kwargs=True
        )
    return seen


def noisy(batch):
    return {name: 5 * torch.randn(values.shape) if "pixel_values" in name else values for name, values in batch.items()}


# ---- what attaching does ----


@families
def test_attaching_encoders_with_our_queries_changes_no_bit(family, pictures):
    model, processor = tiny.FAMILIES[family]()
    before = logits(model, ask(processor, pictures))
    yarbus.attach(model, processor, head=CARPE.preset("ours", encoders=folders("cumo", "siglip")))
    batch = ask(processor, pictures)
    assert torch.equal(logits(model, batch), before)
    assert not any(p.requires_grad for p in encoders_of(model).parameters())
    assert not any(
        module.training for module in encoders_of(model.train()).modules() if module is not encoders_of(model)
    )


def test_batches_signature_and_names_of_inputs_hold_every_encoder(pictures):
    model, processor = attached()
    batch = ask(processor, pictures, images_per_row=2)
    assert batch["context_pixel_values_siglip"].shape == (4, 3, 42, 42)
    assert batch["context_picture_counts"].tolist() == [2, 2]
    names = set(inspect.signature(model.forward).parameters)
    assert names.issuperset(BATCH_OF) and set(processor.model_input_names).issuperset(BATCH_OF)
    plain = yarbus.attach(*tiny.llava(), head=CARPE())[0]
    assert not set(inspect.signature(plain.forward).parameters) & set(BATCH_OF)
    assert pickle.loads(pickle.dumps(type(model))) is type(model) is not type(plain)  # noqa: S301
    twin = pickle.loads(pickle.dumps(processor))  # noqa: S301
    assert torch.equal(
        ask(twin, pictures)["context_pixel_values_cumo"], ask(processor, pictures)["context_pixel_values_cumo"]
    )


def test_words_alone_bring_no_pictures_for_encoders(pictures):
    model, processor = attached()
    words = ask(processor, pictures, images_per_row=0)
    assert not set(words) & set(BATCH_OF)
    seen = counted(model)
    logits(model, words)
    assert seen == {"cumo": [], "siglip": []}


def test_a_batch_without_an_encoders_pictures_is_refused_by_name(pictures):
    model, processor = attached()
    batch = dict(ask(processor, pictures))
    for lacking in BATCH_OF:
        less = {name: values for name, values in batch.items() if name != lacking}
        for call in (lambda less=less: model(**less), lambda less=less: model.generate(**less, **OPTIONS)):
            with pytest.raises(DataError, match=f"the batch has no {lacking}"):
                call()
    with pytest.raises(DataError, match="do not fit the batch"):
        model(**{**batch, "context_pixel_values_siglip": batch["context_pixel_values_siglip"][:1]})
    with pytest.raises(DataError, match="not those of the base's tower"):
        model(**{**batch, "context_picture_counts": torch.tensor([2, 0])})


def test_counts_that_give_a_row_another_rows_picture_are_refused(pictures):
    model, processor = attached()
    shown = [[pictures[0]], [pictures[1], pictures[2]]]
    turns = [[{"type": "image"}] * len(own) + [{"type": "text", "text": "which ?"}] for own in shown]
    messages = [[{"role": "user", "content": turn}] for turn in turns]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = dict(processor(images=shown, text=text, padding=True, return_tensors="pt"))
    swapped = {**batch, "context_picture_counts": torch.tensor([2, 1])}
    for call in (lambda: model(**swapped), lambda: model.generate(**swapped, **OPTIONS)):
        with pytest.raises(DataError, match=r"counts \[2, 1\] by row, the tower is shown \[1, 2\]"):
            call()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"features": "adapted"}, "features 'adapted'"),
        ({"cross_attention": False}, "cross_attention false"),
        ({"context_pass": "joint"}, "context_pass 'joint'"),
        ({"weighting": "fixed", "vision_weight": 0.0}, "vision_weight 0"),
    ],
)
def test_options_that_would_leave_encoders_unseen_are_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        CARPE(encoders={"one": "somewhere"}, **options)


def test_names_that_cannot_be_keywords_are_refused_and_order_does_not_matter():
    for name in ("base", "Siglip", "a__b", "values", "a-b", ""):
        with pytest.raises(ConfigError, match="an encoder cannot be called"):
            CARPE(encoders={name: "somewhere"})
    one, other = CARPE(encoders={"b": "x", "a": {"path": "y"}}), CARPE(encoders={"a": "y", "b": "x"}, feature_cache="z")
    assert one == other and hash(one) == hash(other) and list(one.spec()["encoders"]) == ["a", "b"]
    assert "encoders" not in CARPE().spec() and "feature_cache" not in other.spec()


def test_the_plan_on_the_meta_device_counts_frozen_encoders_and_trained_adapters():
    config = tiny.llava()[0].config.to_dict()
    on_meta = yarbus.attach(base_on_meta(config), None, head=CARPE(encoders=folders("siglip")))[0]
    model, _ = attached(method=CARPE(encoders=folders("siglip")))
    plans = [yarbus.plan(one) for one in (on_meta, model)]
    assert plans[0].rows == plans[1].rows
    frozen = next(row for row in plans[0].rows if row.place == "head" and not row.group)
    assert frozen.parameters == sum(p.numel() for p in encoders_of(model).parameters()) and not frozen.trained
    dim = 48
    widths = sum(width * dim + dim + dim * dim + dim for width in (32, 20))
    plain = yarbus.plan(yarbus.attach(*tiny.llava(), head=CARPE())[0]).groups()
    assert plans[0].groups()["head"] == plain["head"] + widths - (32 * dim + dim + dim * dim + dim)
    assert plans[0].groups()["router"] == plain["router"] + 2 * dim + 2


# ---- the choice ----


@families
def test_weights_and_choice_depend_on_the_question_and_not_on_a_single_pixel(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures[:4], QUESTIONS)
    kinds = ("mixing_weights", "encoder_choice", "encoder_probabilities")
    before, after = recorded(model, batch, *kinds), recorded(model, noisy(batch), *kinds)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not torch.equal(logits(model, noisy(batch)), logits(model, batch))
    _, choice, probabilities = before
    assert torch.equal(choice, probabilities.argmax(dim=-1))
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(4))
    other = recorded(model, ask(processor, pictures[:4], QUESTIONS[::-1]), "encoder_probabilities")[0]
    assert not torch.equal(other[0], probabilities[0])


@pytest.mark.parametrize("images_per_row", [1, 2])
def test_the_mixture_and_its_gradients_are_those_of_a_slow_loop(images_per_row, pictures):
    model, processor = attached()
    route(model, processor, [1, 2, 0, 1], pictures, sharp=1.0)
    mixture, batch = mixture_of(model), ask(processor, pictures, QUESTIONS, images_per_row=images_per_row)
    torch.manual_seed(2)
    states = states_of(model, ask(processor, pictures[:4], QUESTIONS))
    vision, mask = torch.randn(4, 4 * images_per_row, 32), torch.ones(4, 4 * images_per_row, dtype=torch.bool)
    mixture.balance_loss = 0.0
    with mixture.slot.holding(context(model, batch)):
        features, is_there = mixture.train()(dict(encoders_of(model)), states, vision, mask)
    noise = torch.randn(features.shape)
    (features * noise * is_there[..., None]).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in mixture.named_parameters()}
    mixture.zero_grad()
    total = torch.zeros(())
    for row, chosen in enumerate([1, 2, 0, 1]):
        p = (mixture.router.weight @ states[row] + mixture.router.bias).softmax(dim=0)
        assert int(p.argmax()) == chosen
        name = mixture.names[chosen]
        if chosen:
            own = slice(row * images_per_row, (row + 1) * images_per_row)
            shown = batch[f"context_pixel_values_{name}"][own]
            seen = torch.cat([encoders_of(model)[name](picture[None])[0] for picture in shown])
        else:
            seen = vision[row]
        adapted = mixture.adapters[name](seen * (p[chosen] / p[chosen].detach()))
        assert p[chosen] / p[chosen].detach() == 1
        torch.testing.assert_close(features[row, : len(seen)], adapted, atol=1e-5, rtol=1e-4)
        assert is_there[row].tolist() == [place < len(seen) for place in range(is_there.shape[1])]
        total = total + (adapted * noise[row, : len(seen)]).sum()
    total.backward()
    for name, parameter in mixture.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)
    assert found["router.weight"].any()


@pytest.mark.parametrize("images_per_row", [1, 2])
def test_only_the_chosen_encoder_runs_and_only_for_its_rows(images_per_row, pictures):
    model, processor = attached()
    route(model, processor, [1, 0, 2, 1], pictures)
    seen = counted(model)
    batch = ask(processor, pictures, QUESTIONS, images_per_row=images_per_row)
    assert recorded(model, batch, "encoder_choice")[0].tolist() == [1, 0, 2, 1]
    assert seen == {"cumo": [2 * images_per_row], "siglip": [images_per_row]}
    route(model, processor, [0, 0], pictures)
    logits(model, ask(processor, pictures))
    assert seen == {"cumo": [2 * images_per_row], "siglip": [images_per_row]}


def test_rows_of_a_mixed_batch_see_what_they_would_see_alone(pictures):
    model, processor = attached()
    route(model, processor, [1, 2, 0], pictures)
    shown = [[pictures[0]], [pictures[1], pictures[2]], [pictures[3]], []]
    turns = [
        [{"type": "image"}] * len(own) + [{"type": "text", "text": QUESTIONS[row % 3]}] for row, own in enumerate(shown)
    ]
    text = processor.apply_chat_template(
        [[{"role": "user", "content": turn}] for turn in turns], add_generation_prompt=True
    )
    mixed = processor(images=shown, text=text, padding=True, return_tensors="pt")
    assert mixed["context_picture_counts"].tolist() == [1, 2, 1, 0]
    assert recorded(model, mixed, "encoder_choice")[0].tolist() == [1, 2, 0, -1]
    together_ = logits(model, mixed)[:, -1]
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    written = model.generate(**mixed, **options)[:, -4:]
    for row in range(4):
        images = {"images": [shown[row]]} if shown[row] else {}
        alone = processor(**images, text=text[row : row + 1], padding=True, return_tensors="pt")
        torch.testing.assert_close(logits(model, alone)[0, -1], together_[row], atol=5e-5, rtol=1e-4)
        assert torch.equal(model.generate(**alone, **options)[0, -4:], written[row])


def test_parts_of_different_lengths_stand_in_their_rows_with_nothing_behind():
    one = Seen(torch.tensor([2]), torch.ones(1, 2, 3), torch.tensor([[True, True]]))
    other = Seen(torch.tensor([0]), torch.full((1, 4, 3), 2.0), torch.tensor([[True, True, True, False]]))
    features, mask = together([one, other], 3)
    assert mask.tolist() == [[True, True, True, False], [False] * 4, [True, True, False, False]]
    assert torch.equal(features[..., 0], torch.tensor([[2.0] * 4, [0.0] * 4, [1.0, 1.0, 0.0, 0.0]]))


def test_a_conversation_has_the_encoder_of_its_last_question(pictures, tmp_path):
    pictures[0].save(path := tmp_path / "picture.png")
    model, processor = attached()
    route(model, processor, [1, 2], pictures)
    texts = [QUESTIONS[1], "five", QUESTIONS[0], "left"]
    turns = tuple(
        Turn("assistant" if i % 2 else "user", ("<image>\n" if not i else "") + t) for i, t in enumerate(texts)
    )
    batch = Collator(processor, row_keys=True)([(Sample("1", (path,), turns), 0, 0)])
    del batch["sample_ids"]
    head = model.model.context_head
    with torch.no_grad(), head.slot.holding(context(model, batch)):
        states, last = head._prompt_states(model.model), head._last_states(model.model)
    assert states.shape[:2] == (1, 2) and torch.equal(last, states[:, 1])
    assert recorded(model, batch, "encoder_choice")[0].tolist() == [int(mixture_of(model).router(last).argmax())]


def test_a_scalar_or_fixed_weight_may_stand_beside_routed_encoders(pictures):
    for method in (
        CARPE(weighting="scalar", encoders=folders("clip")),
        CARPE(weighting="fixed", encoders=folders("clip")),
    ):
        model, processor = attached(method=method)
        batch = ask(processor, pictures)
        model.train()(**batch, labels=batch["input_ids"]).loss.backward()
        router = parameter_groups(model)["router"]
        assert "model.context_head.prompt.embedding" in router and "model.context_head.mixture.router.weight" in router
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in router.values())


# ---- training ----


def test_the_balance_loss_is_what_its_formula_says_and_rides_on_the_graph(pictures):
    def gradient(coefficient):
        model, processor = attached(method=CARPE(encoders=folders("cumo", "siglip"), balance_loss=coefficient))
        batch = ask(processor, pictures[:4], QUESTIONS)
        with attachment_of(model).slot.recording() as recorder:
            states = model.train().model(**batch).last_hidden_state  # as TRL does: the loss knows nothing of the router
        states.sum().backward()
        weight = mixture_of(model).router.weight
        return weight.grad, recorder, weight, states_of(model.eval(), batch)

    (with_loss, recorder, weight, states), (without, silent, *_) = gradient(0.5), gradient(0.0)
    weight = weight.detach().requires_grad_()
    p = (states @ weight.T + mixture_bias(recorder, states, weight)).softmax(dim=-1)
    choice = recorder.of("encoder_choice")[0][0]
    balance = 3 * sum((choice == n).float().mean() * p[:, n].mean() for n in range(3))
    torch.testing.assert_close(recorder.of("encoder_balance_loss")[0][0], balance.detach())
    (expected,) = torch.autograd.grad(0.5 * balance, weight)
    torch.testing.assert_close(with_loss - without, expected, atol=1e-4, rtol=1e-2)
    assert not silent.of("encoder_balance_loss")


def mixture_bias(recorder, states, weight):
    """The router's bias, up to a number that softmax does not see."""
    return (recorder.of("encoder_probabilities")[0][0].log() - states @ weight.detach().T)[:1]


def test_draws_while_the_prompt_is_frozen_hang_on_the_row_alone(pictures):
    model, processor = attached()
    head, slot = mixture_of(model), attachment_of(model).slot
    model.train()

    def drawn(rows, keys, frozen=("router",)):
        batch = ask(processor, [pictures[row] for row in rows], [QUESTIONS[row % 4] for row in rows])
        with slot.freezing(frozen), slot.recording() as recorder:
            model(**batch, context_row_key=torch.tensor([keys[row] for row in rows]))
        return recorder.of("encoder_choice")[0][0].tolist()

    keys = {row: 1000 + row for row in range(8)}
    first = drawn(range(8), keys)
    assert [drawn([row], keys)[0] for row in (3, 5)] == [first[3], first[5]]
    assert drawn([6, 1, 4], keys) == [first[6], first[1], first[4]]
    visits = [choice for visit in range(9) for choice in drawn(range(8), {row: 50 * visit + row for row in range(8)})]
    assert all(9 < visits.count(number) < 39 for number in range(3))  # a third each of 72, within four deviations
    chosen = drawn(range(8), keys, frozen=())
    assert chosen == drawn(range(8), {row: -row for row in range(8)}, frozen=("head",))
    model.eval()
    assert drawn(range(8), keys) == chosen and not head.explores


def test_a_drawn_encoder_trains_its_adapter_and_the_others_get_zero(pictures):
    model, processor = attached()
    route(model, processor, [0, 0], pictures)
    slot = attachment_of(model).slot
    batch = ask(processor, pictures)
    model.train()
    with slot.freezing(["router"]), slot.recording() as recorder:
        model(**batch, labels=batch["input_ids"]).loss.backward()
    chosen = {mixture_of(model).names[index] for index in recorder.of("encoder_choice")[0][0]}
    for name, adapter in mixture_of(model).adapters.items():
        gradients = [parameter.grad for parameter in adapter.parameters()]
        assert all(gradient is not None and bool(gradient.any()) is (name in chosen) for gradient in gradients)


def test_an_encoder_no_row_has_a_key_for_is_refused(pictures):
    model, processor = attached()
    batch = dict(ask(processor, pictures))
    ids = batch["input_ids"]
    with attachment_of(model).slot.freezing(["router"]), mixture_of(model).slot.holding(context(model, batch)):
        object.__setattr__(mixture_of(model).slot.context, "row_keys", None)
        with pytest.raises(DataError, match="no key to draw an encoder by"):
            mixture_of(model).train().choose(torch.zeros(len(ids), 48), torch.ones(len(ids), dtype=torch.bool))


# ---- generation ----


@families
@pytest.mark.parametrize("images_per_row", [1, 2])
def test_a_cached_answer_is_the_one_of_the_whole_sequence(family, images_per_row, pictures):
    model, processor = attached(family)
    route(model, processor, [1, 2], pictures)
    batch = ask(processor, pictures, images_per_row=images_per_row)
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    expected, expected_logits = stepwise(model, batch, 4)
    seen = counted(model)
    for kind in (None, "static"):
        found = model.generate(**batch, **options, cache_implementation=kind)
        assert torch.equal(found.sequences, expected)
        torch.testing.assert_close(torch.stack(found.logits), expected_logits, atol=2e-5, rtol=1e-4)
    assert seen == {"cumo": [images_per_row] * 2, "siglip": [images_per_row] * 2}


@families
def test_encoders_and_prompt_run_once_however_many_beams_and_words(family, pictures):
    model, processor = attached(family)
    route(model, processor, [2, 1], pictures)
    head, seen, asked = model.model.context_head, counted(model), []
    after_text = head.prompt.after_text
    head.prompt.after_text = lambda *args: asked.append(1) or after_text(*args)
    batch = ask(processor, pictures)
    model.generate(**batch, **OPTIONS, num_beams=3, num_return_sequences=2)
    model.generate(**batch, **OPTIONS, use_cache=False)
    torch.manual_seed(0)
    model.generate(**batch, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert seen == {"cumo": [1] * 3, "siglip": [1] * 3} and len(asked) == 3


@families
def test_beams_have_the_scores_of_their_sequences(family, pictures):
    model, processor = attached(family)
    route(model, processor, [1, 2], pictures)
    batch = ask(processor, pictures)
    found = model.generate(
        **batch, **OPTIONS, num_beams=3, num_return_sequences=2, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True, suppress_tokens=[model.config.image_token_id],
    )  # fmt: skip
    length = batch["input_ids"].shape[1]
    for number, sequence in enumerate(found.sequences):
        row = number // 2
        alone = ask(processor, pictures[row : row + 1], [QUESTIONS[row]])
        ids = torch.cat([batch["input_ids"][row][batch["attention_mask"][row].bool()], sequence[length:]])[None]
        whole = {**alone, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in whole:
            whole["mm_token_type_ids"] = F.pad(whole["mm_token_type_ids"], (0, 4))
        scores = logits(model, whole)[0, -5:-1].log_softmax(dim=-1)
        expected = scores.gather(1, sequence[length:, None]).sum()
        torch.testing.assert_close(found.sequences_scores[number], expected, atol=1e-4, rtol=1e-4)


def test_a_plain_model_may_assist_and_a_prompt_may_be_looked_up(pictures):
    model, processor = attached()
    route(model, processor, [2], pictures)
    batch = ask(processor, pictures[:1], QUESTIONS[:1])
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    expected = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, assistant_model=tiny.llava()[0]), expected)
    assert torch.equal(model.generate(**batch, **options, prompt_lookup_num_tokens=2), expected)


def test_a_running_conversation_keeps_what_its_first_question_chose(pictures):
    model, processor = attached()
    route(model, processor, [1, 2], pictures)
    seen = counted(model)
    first = ask(processor, pictures[:1], QUESTIONS[:1])
    found = model.generate(**first, **OPTIONS, return_dict_in_generate=True)
    keys = HeadLayer.of(found.past_key_values).side["keys"].clone()
    more = processor.tokenizer("USER: where is the blue one ? ASSISTANT:", return_tensors="pt")["input_ids"]
    ids = torch.cat([found.sequences, more], dim=1)
    said = processor(text=[f"USER: {QUESTIONS[1]} ASSISTANT:"], return_tensors="pt")
    question = {name: said[name] for name in ("context_prompt_ids", "context_prompt_mask")}
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **question, **OPTIONS, past_key_values=found.past_key_values
    )
    assert torch.equal(HeadLayer.of(found.past_key_values).side["keys"], keys)
    assert seen == {"cumo": [1], "siglip": []}


# ---- saving ----

FRESH = """
import sys, torch, yarbus
from tests import tiny
torch.set_num_threads(1)
model, processor = yarbus.load_adapter(*tiny.llava(), sys.argv[1])
batch = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(model.eval()(**batch).logits, sys.argv[3])
assert set(processor.picture_processors) == {"cumo", "siglip"}
"""


def test_an_adapter_says_the_same_in_a_fresh_process_and_holds_no_encoder(pictures, tmp_path):
    model, processor = attached()
    route(model, processor, [1, 2], pictures)
    batch = dict(ask(processor, pictures))
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    assert not any("context_vision_encoders" in name for name in adapter_tensors(model))
    torch.save(batch, tmp_path / "batch.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    files = [str(tmp_path / name) for name in ("adapter", "batch.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", FRESH, *files], env=environment, check=True, capture_output=True)
    assert torch.equal(torch.load(files[2], weights_only=True), logits(model, batch))


def test_another_encoder_is_refused_with_both_fingerprints(pictures, tmp_path):
    model, processor = attached(method=CARPE(encoders=folders("clip")))
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    copied = tmp_path / "adapter" / "vision_encoders" / "clip"
    assert (copied / "model.safetensors").is_file() and (copied / "preprocessor_config.json").is_file()
    other = clip_vision()
    with torch.no_grad():
        other.encoder.layers[0].mlp.fc1.weight.neg_()
    other.save_pretrained(copied)
    base, its_processor = tiny.llava()
    with pytest.raises(MismatchError, match="vision encoder 'clip' is another one") as told:
        yarbus.load_adapter(base, its_processor, tmp_path / "adapter")
    assert told.value.exit_code == 78 and encoders_of(model)["clip"].fingerprint in str(told.value)
    assert type(base).__name__ == "LlavaForConditionalGeneration"


def test_an_encoder_of_the_same_weights_that_computes_otherwise_is_refused(tmp_path):
    model, processor = attached(method=CARPE(encoders=folders("cumo")))
    yarbus.save_adapter(model, tmp_path, processor)
    file = tmp_path / "vision_encoders" / "cumo" / "config.json"
    file.write_text(file.read_text().replace('"top_k": 2', '"top_k": 1'))
    with pytest.raises(MismatchError, match="vision encoder 'cumo' is another one.*with top_k 2, this has 1"):
        yarbus.load_adapter(*tiny.llava(), tmp_path)


def test_detaching_takes_the_encoders_away(pictures):
    model, processor = tiny.llava()
    names = [name for name, _ in model.named_modules()]
    yarbus.attach(model, processor, head=CARPE(encoders=folders("clip")))
    yarbus.detach(model, processor)
    assert [name for name, _ in model.named_modules()] == names
    assert not hasattr(model.model, "context_vision_encoders") and not hasattr(processor, "picture_processors")


@families
def test_an_eye_of_its_own_and_further_eyes_train_together_and_are_one_adapter(
    family, text_encoder, pictures, tmp_path
):
    model, processor = attached(family, vision=CoVFT(num_experts=2, context_dim=16), text_encoder=text_encoder)
    route(model, processor, [0, 2], pictures)
    batch = ask(processor, pictures)
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    missing = {
        name
        for group in parameter_groups(model).values()
        for name, parameter in group.items()
        if not parameter.grad.any() and "adapters.cumo" not in name
    }
    assert not missing, sorted(missing)[:5]
    yarbus.save_adapter(model.eval(), tmp_path, processor)
    again, its_processor = yarbus.load_adapter(*tiny.FAMILIES[family](), tmp_path)
    assert torch.equal(logits(again.eval(), ask(its_processor, pictures)), logits(model, batch))


def test_features_may_be_kept_on_disk_and_are_the_same_to_the_bit(pictures, tmp_path):
    kept = CARPE(encoders=folders("cumo", "siglip"), feature_cache=str(tmp_path / "features"))
    model, processor = attached(method=kept)
    route(model, processor, [1, 2], pictures)
    batch, seen = ask(processor, pictures), counted(model)
    first = logits(model, batch)
    assert seen == {"cumo": [1], "siglip": [1]} and len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert torch.equal(logits(model, batch), first) and seen == {"cumo": [1], "siglip": [1]}
    other, its_processor = attached(method=kept)  # another process would find them as well
    route(other, its_processor, [1, 2], pictures)
    seen = counted(other)
    assert torch.equal(logits(other, batch), first) and seen == {"cumo": [], "siglip": []}
    plain, its_processor = attached()
    route(plain, its_processor, [1, 2], pictures)
    torch.testing.assert_close(logits(plain, batch), first, atol=1e-6, rtol=1e-5)


# ---- processes ----

PROCESS = """
import sys, torch
from torch import distributed
torch.set_num_threads(1)
from tests.methods.shared_encoders import gradients_of, shared_model
rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
model, processor = shared_model()
parallel = torch.nn.parallel.DistributedDataParallel(model)
for _ in range(2):  # a tensor that no gradient came for is found by the second forward
    found = gradients_of(model, parallel, processor, [rank])
torch.save(found, f"{file}.{rank}")
distributed.destroy_process_group()
"""


def test_processes_that_choose_otherwise_or_have_words_alone_share_the_gradients(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    file = tmp_path / "store"
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(file)], env=environment) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    model, processor = shared_model()
    expected = gradients_of(model, model, processor, [0, 1])
    for rank in range(2):
        found = torch.load(f"{file}.{rank}", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
