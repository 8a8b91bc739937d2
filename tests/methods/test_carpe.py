"""CARPE's equations against slow loops, its weights against the picture, and every way to generate."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

import yarbus
from tests import tiny
from tests.matrix.cells import as_after_training, logits
from tests.models.batches import QUESTIONS, ask
from tests.tiny.parts import lively
from yarbus.core.errors import ConfigError, DataError
from yarbus.data.collate import Collator
from yarbus.data.sample import Sample, Turn
from yarbus.methods import CARPE, LEVI, CoVFT
from yarbus.methods.carpe import branches
from yarbus.methods.context_prompt import WORDS_AT_ONCE, middle_of
from yarbus.methods.integrator import HeadLayer, Integrator, Places, rotate
from yarbus.models.attachment import attachment_of, parameter_groups
from yarbus.models.vlm import VLM

families = pytest.mark.parametrize("family", list(tiny.FAMILIES))
HEARD = [name for name in tiny.EVERY if name != "mllama"]
"""Models whose images stand in their language model's sequence: those that take a head."""
TOLD_MORE = ("gemma3", "molmo2", "paligemma", "qwen3_vl")
"""Models whose language model is told more of pictures than their embeddings."""
OPTIONS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def attached(family, method=None, **others):
    model, processor = tiny.EVERY[family]()
    torch.manual_seed(1)
    yarbus.attach(model, processor, head=method or CARPE(), **others)
    return as_after_training(model).eval(), processor


def weights_of(model, batch):
    with torch.no_grad(), attachment_of(model).slot.recording() as recorder:
        model(**batch)
    return recorder.of("mixing_weights")[0][0]


def noisy(batch):
    return {**batch, "pixel_values": 5 * torch.randn(batch["pixel_values"].shape)}


# ---- the integrator ----


def slow_attention(attention, queries, keys, values, allowed):
    """One head, one query, one key at a time."""
    heads = [part.unflatten(-1, (attention.num_heads, -1)) for part in (queries, keys, values)]
    found = torch.zeros_like(heads[0])
    for head in range(attention.num_heads):
        for place in range(len(queries)):
            seen = [key for key in range(len(keys)) if allowed[place, key]]
            scores = torch.stack([heads[0][place, head] @ heads[1][key, head] for key in seen])
            shares = (scores / heads[0].shape[-1] ** 0.5).softmax(dim=0)
            found[place, head] = sum(share * heads[2][key, head] for share, key in zip(shares, seen, strict=True))
    return attention.output(found.flatten(1))


def slow_rotation(values, angles):
    """Each pair (i, i + half) of a head turns by its own angle."""
    half = values.shape[-1] // 2
    turned = torch.empty_like(values)
    for place in range(values.shape[0]):
        for i in range(half):
            a, b, angle = values[place, :, i], values[place, :, i + half], angles[place, i]
            turned[place, :, i] = a * angle.cos() - b * angle.sin()
            turned[place, :, i + half] = b * angle.cos() + a * angle.sin()
    return turned


def test_the_integrator_is_what_its_equations_say():
    torch.manual_seed(0)
    block = Integrator(dim=12, num_heads=3, head_dim=4, mlp_ratio=2.0, epsilon=1e-6, cross_attention=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 3)
    states, vision = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    places = Places.of(torch.tensor([[True] * 5, [True, True, False, True, False]]))
    angles = torch.randn(2, 5, 2)
    wave = torch.cat([angles, angles], dim=-1)
    rotations = tuple(places.take(part) for part in (wave.cos(), wave.sin()))
    found = block(places.take(states), places, block.see(vision, mask), rotations)
    cross, own = block.cross_attention, block.self_attention
    for row, columns in enumerate(([0, 1, 2, 3, 4], [0, 1, 3])):
        u, r = states[row, columns], vision[row]
        normed, allowed = block.norms[0](u), mask[row].expand(len(columns), -1)
        u = u + slow_attention(cross, cross.query(normed), cross.key(r), cross.value(r), allowed)
        normed = block.norms[1](u)
        turned = [
            slow_rotation(part(normed).unflatten(-1, (3, 4)), angles[row, columns]).flatten(1)
            for part in (own.query, own.key)
        ]
        causal = torch.ones(len(columns), len(columns)).tril().bool()
        u = u + slow_attention(own, *turned, own.value(normed), causal)
        u = u + block.down(F.gelu(block.up(block.norms[2](u))))
        torch.testing.assert_close(found[row, : len(columns)], u, atol=1e-5, rtol=1e-4)


def test_dimensions_behind_the_rotated_ones_pass_as_they_are():
    values, angles = torch.randn(1, 2, 3, 8), torch.randn(1, 3, 2)
    wave = torch.cat([angles, angles], dim=-1)
    turned = rotate(values, (wave.cos(), wave.sin()))
    assert torch.equal(turned[..., 4:], values[..., 4:]) and not torch.equal(turned[..., :4], values[..., :4])
    assert rotate(values, None) is values


def test_places_are_the_columns_of_text_in_order():
    places = Places.of(torch.tensor([[False, True, True, False], [True, False, True, True], [False] * 4]))
    assert places.mask.sum(dim=1).tolist() == [2, 3, 0]
    assert places.index[0, :2].tolist() == [1, 2] and places.index[1].tolist() == [0, 2, 3]
    values = torch.arange(12.0).view(3, 4, 1)
    assert torch.equal(places.put(places.take(values) + 100, values)[..., 0], torch.tensor(
        [[0.0, 101.0, 102.0, 3.0], [104.0, 5.0, 106.0, 107.0], [8.0, 9.0, 10.0, 11.0]]
    ))  # fmt: skip


# ---- mixing ----


@families
def test_mixed_states_give_mixed_logits(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures)
    states = []
    model.model.language_model.norm.register_forward_hook(lambda _, __, output: states.append(output))
    mixed = logits(model, batch)
    own = model.lm_head(states[0]).detach()
    weights, found = weights_of(model, batch)[:, 0, 0], branches(model, batch)
    is_text = (batch["input_ids"] != model.config.image_token_id) & batch["attention_mask"].bool()
    for row in range(len(mixed)):
        columns = found.columns[row, found.mask[row]]
        assert torch.equal(columns, is_text[row].nonzero()[:, 0])
        assert torch.equal(found.weight[row], weights[row].expand(found.weight.shape[1]))
        language, vision = (part[row, found.mask[row]] for part in (found.language_logits, found.vision_logits))
        torch.testing.assert_close(language, own[row, columns], atol=1e-5, rtol=1e-5)
        expected = weights[row] * vision + (1 - weights[row]) * language
        torch.testing.assert_close(mixed[row, columns], expected, atol=2e-5, rtol=1e-4)
        others = (~is_text[row]).nonzero()[:, 0]
        assert torch.equal(mixed[row, others], own[row, others])


def test_branches_need_a_head_and_a_picture(pictures):
    model, processor = attached("llava")
    with pytest.raises(DataError, match="no row has a picture"):
        branches(model, ask(processor, pictures, images_per_row=0))
    with pytest.raises(ConfigError, match="no carpe is attached"):
        branches(tiny.llava()[0], {})


@families
def test_weights_depend_on_the_question_and_not_on_a_single_pixel(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures)
    weights = weights_of(model, batch)
    assert torch.equal(weights_of(model, noisy(batch)), weights)
    assert not torch.equal(logits(model, noisy(batch)), logits(model, batch))
    other = weights_of(model, ask(processor, pictures, [QUESTIONS[2], QUESTIONS[1]]))
    assert not torch.equal(other[0], weights[0])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 1))


@families
@pytest.mark.parametrize("context_pass", ["masked", "joint"])
def test_weights_of_the_ablations_see_the_picture(family, context_pass, pictures):
    model, processor = attached(family, CARPE(context_pass=context_pass))
    batch = ask(processor, pictures)
    assert not torch.equal(weights_of(model, noisy(batch)), weights_of(model, batch))


@pytest.mark.parametrize("name", HEARD)
def test_the_weight_of_a_row_is_the_one_that_it_has_alone(name, pictures):
    model, processor = attached(name)
    questions = ["what digit is red ?", "where is the blue one and which colour is the digit ?"]
    alone = ask(processor, pictures[:1], questions[:1])
    beside = ask(processor, pictures[:2], questions)
    torch.testing.assert_close(weights_of(model, beside)[0], weights_of(model, alone)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in HEARD if name not in TOLD_MORE])
def test_the_joint_pass_sees_the_states_of_the_models_own(name, pictures):
    model, processor = attached(name, CARPE(context_pass="joint", train_lm_head=False))
    states = []
    language_model = VLM.of(model).language_model
    language_model.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
    logits(model, ask(processor, pictures[:1], QUESTIONS[:1]))
    own, again = states
    torch.testing.assert_close(again[:, : own.shape[1]], own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOLD_MORE)
def test_a_second_pass_over_pictures_is_refused_where_it_would_lack_what_the_first_is_told(name):
    for context_pass in ("joint", "masked"):
        with pytest.raises(ConfigError, match=f"context_pass '{context_pass}' does not work with.*told more of pict"):
            yarbus.attach(*tiny.EVERY[name](), head=CARPE(context_pass=context_pass))
    yarbus.attach(*tiny.EVERY[name](), head=CARPE(context_pass="joint", weighting="scalar"))


@families
def test_weights_start_as_one_half_and_a_scalar_is_the_same_for_all(family, pictures):
    model, processor = tiny.FAMILIES[family]()
    yarbus.attach(model, processor, head=CARPE())
    assert torch.equal(weights_of(model, ask(processor, pictures)), torch.full((2, 1, 2), 0.5))
    scalar, processor = attached(family, CARPE(weighting="scalar"))
    batch = ask(processor, pictures)
    assert not any(name.startswith("context_prompt") for name in batch)
    context_free = logits(scalar, batch)
    with torch.no_grad():
        scalar.model.context_head.scalar.copy_(torch.tensor([0.0, 1e4]))
    assert not torch.equal(logits(scalar, batch), context_free)


@families
def test_a_weight_of_nothing_is_the_language_model_with_the_trained_head(family, pictures):
    model, processor = attached(family, CARPE(weighting="fixed", vision_weight=0.0))
    plain = tiny.FAMILIES[family]()[0]
    with torch.no_grad():
        plain.lm_head.weight.copy_(model.lm_head.weight)
    batch = ask(processor, pictures)
    assert not hasattr(model.model, "context_head")
    assert set(parameter_groups(model)) == {"head"} and len(parameter_groups(model)["head"]) == 1
    assert torch.equal(logits(model, batch), logits(plain, batch))


@families
@pytest.mark.parametrize("method", [CARPE(), LEVI(num_layers=2)], ids=["carpe", "levi"])
def test_rows_without_a_picture_are_the_language_model_with_the_trained_head(family, method, pictures):
    model, processor = attached(family, method)
    plain = tiny.FAMILIES[family]()[0]
    with torch.no_grad():
        plain.lm_head.weight.copy_(model.lm_head.weight)
    words = ask(processor, pictures, images_per_row=0)
    bare = {name: value for name, value in words.items() if not name.startswith("context_")}
    assert torch.equal(logits(model, words), logits(plain, bare))
    assert torch.equal(model.generate(**words, **OPTIONS), plain.generate(**bare, **OPTIONS))


def test_a_head_that_shares_its_weight_gets_one_of_its_own_and_gives_it_back(pictures, tmp_path):
    def tied():
        model, processor = tiny.llava()
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
        return model, processor

    model, processor = tied()
    batch = dict(ask(processor, pictures))
    before, names = logits(model, batch), [name for name, _ in model.named_parameters()]
    table = model.get_input_embeddings().weight.clone()
    yarbus.attach(model, processor, head=CARPE.preset("ours"))
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert torch.equal(logits(model, {**batch, **ask(processor, pictures)}), before)
    as_after_training(model)
    assert torch.equal(model.get_input_embeddings().weight, table)
    asked = ask(processor, pictures)
    expected = logits(model, asked)
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    again, _ = yarbus.load_adapter(*tied(), tmp_path / "adapter")
    assert torch.equal(logits(again.eval(), asked), expected)
    whole, _ = yarbus.load(tmp_path / "full")
    assert torch.equal(logits(whole.eval(), asked), expected)
    yarbus.detach(model, processor)  # the copy was trained, the base was not
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings and [name for name, _ in model.named_parameters()] == names
    assert torch.equal(logits(model, batch), before)


@families
def test_the_head_takes_the_lm_head_from_a_language_model_that_trains_wholly(family):
    for places in ({"language": "full", "head": CARPE()}, {"head": CARPE(), "language": "full"}):
        model, processor = tiny.FAMILIES[family]()
        yarbus.attach(model, processor, **places)
        groups = parameter_groups(model)
        assert "lm_head.weight" in groups["head"] and "lm_head.weight" not in groups["language"]


def test_soft_capped_logits_are_refused_with_the_reason():
    model, processor = tiny.llava()
    model.config.text_config.final_logit_softcapping = 30.0
    for method in (CARPE(), LEVI(num_layers=1)):
        with pytest.raises(ConfigError, match=r"capped at 30\.0"):
            yarbus.attach(model, processor, head=method)


@pytest.mark.parametrize(("name", "context_pass"), [("llava", "joint"), ("paligemma", "text_only")])
def test_a_mask_that_the_attention_would_ignore_is_refused(name, context_pass):
    model, processor = tiny.EVERY[name]()
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="attn_implementation='sdpa'"):
        yarbus.attach(model, processor, head=CARPE(context_pass=context_pass))


def test_the_prompt_starts_in_the_middle_of_the_embeddings_as_they_go_in():
    torch.manual_seed(0)
    table = nn.Embedding(3 * WORDS_AT_ONCE // 2, 4)
    torch.testing.assert_close(middle_of(table), table.weight.detach().mean(dim=0), atol=1e-6, rtol=1e-4)
    words = tiny.EVERY["gemma3"]()[0].get_input_embeddings()
    with torch.no_grad():
        expected = words(torch.arange(words.num_embeddings)).mean(dim=0)
    torch.testing.assert_close(middle_of(words), expected)
    assert not torch.allclose(expected, words.weight.mean(dim=0), rtol=0.1)  # scaled when they are looked up


def test_more_adapting_layers_than_blocks_are_refused():
    with pytest.raises(ConfigError, match="5 adapting layers on 2 language blocks"):
        yarbus.attach(*tiny.llava(), head=LEVI(num_layers=5))


def test_a_batch_of_a_plain_processor_is_refused(pictures):
    model, _ = attached("llava")
    with pytest.raises(DataError, match="no question reached the head"):
        model(**ask(tiny.llava()[1], pictures))


# ---- turns ----


def conversation(picture, *texts):
    return Sample("1", (picture,), tuple(Turn("assistant" if i % 2 else "user", t) for i, t in enumerate(texts)))


@families
def test_each_answer_is_written_with_the_weight_of_its_own_turn(family, pictures, tmp_path):
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    model, processor = attached(family)
    head = model.model.context_head
    two = conversation(path, "<image>\nwhat digit ?", "one two", "where is the red one ?", "left")
    batch = Collator(processor)([(two, 0, 0), (conversation(path, "<image>\nwhich ?", "five"), 0, 1)])
    batch.pop("sample_ids")
    assert batch["context_prompt_ids"].shape[:2] == (2, 2)
    seen = []
    head.slot.recorder = None
    weigh = head.weigh
    head.weigh = lambda *args, **kwargs: seen.append(weigh(*args, **kwargs)) or seen[-1]
    weights = weights_of(model, batch)[..., 0]
    labels, columns = batch["labels"], seen[0]
    for row, answers in enumerate(([0, 1], [0])):
        written = (labels[row] != -100).nonzero()[:, 0]
        turns = batch["context_turn_index"][row][written]
        assert turns.unique().tolist() == answers
        assert torch.equal(columns[row, written - 1], weights[row, turns])
    assert weights[0, 0] != weights[0, 1]
    alone = Collator(processor)([(conversation(path, "<image>\nwhat digit ?", "one two"), 0, 0)])
    alone.pop("sample_ids")
    torch.testing.assert_close(weights_of(model, alone)[0, 0, 0], weights[0, 0])
    # The second question is told the first, and never an answer.
    spoken = processor.tokenizer.decode(batch["context_prompt_ids"][0, 1], skip_special_tokens=True)
    assert "what digit" in spoken and "where is the red one" in spoken and "two" not in spoken


def test_one_weight_for_the_whole_conversation_is_that_of_its_last_turn(pictures, tmp_path):
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    model, processor = attached("llava", CARPE(one_per="conversation"))
    two = conversation(path, "<image>\nwhat digit ?", "one two", "where is the red one ?", "left")
    batch = Collator(processor)([(two, 0, 0)])
    batch.pop("sample_ids")
    head, seen = model.model.context_head, []
    weigh = head.weigh
    head.weigh = lambda *args, **kwargs: seen.append(weigh(*args, **kwargs)) or seen[-1]
    weights = weights_of(model, batch)
    assert torch.equal(seen[0], weights[0, 1, 0].expand_as(seen[0]))


def test_the_answer_of_rendered_text_never_reaches_the_weights(pictures):
    _, processor = attached("llava")
    open_, answered = (ask(processor, pictures, answers=answers) for answers in (None, ["five", "left"]))
    assert torch.equal(open_["context_prompt_ids"], answered["context_prompt_ids"])
    five = processor.tokenizer.convert_tokens_to_ids("five")
    assert (answered["input_ids"] == five).any() and not (answered["context_prompt_ids"] == five).any()


# ---- generation ----


def stepwise(model, batch, steps):
    """Greedy tokens, each from the whole sequence anew, and their logits [steps, batch, vocabulary]."""
    found = []
    ids, mask = batch["input_ids"], batch["attention_mask"]
    extra = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    kinds = extra.pop("mm_token_type_ids", None)
    length = ids.shape[1]
    for _ in range(steps):
        whole = {**extra, "input_ids": ids, "attention_mask": mask}
        if kinds is not None:
            whole["mm_token_type_ids"] = F.pad(kinds, (0, ids.shape[1] - length))
        with torch.no_grad():
            scores = model(**whole, use_cache=False).logits[:, -1]
        found.append(scores.clone())
        scores[:, [model.config.image_token_id, 2]] = -torch.inf  # 2 ends an answer
        ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
        mask = F.pad(mask, (0, 1), value=1)
    return ids, torch.stack(found)


@families
@pytest.mark.parametrize("method", [CARPE(), CARPE.preset("ours"), LEVI(num_layers=2)], ids=["carpe", "ours", "levi"])
@pytest.mark.parametrize("images_per_row", [1, 2])
def test_a_cached_answer_is_the_one_of_the_whole_sequence(family, method, images_per_row, pictures):
    model, processor = attached(family, method)
    batch = ask(processor, pictures, images_per_row=images_per_row)
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    expected, expected_logits = stepwise(model, batch, 4)
    for kind in (None, "static"):
        found = model.generate(**batch, **options, cache_implementation=kind)
        assert torch.equal(found.sequences, expected)
        torch.testing.assert_close(torch.stack(found.logits), expected_logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 8])
def test_a_cache_of_fixed_size_answers_as_the_whole_sequence_in_a_window_too(window, pictures):
    base, processor = tiny.llava()
    own = base.config.text_config
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
    text = MistralConfig(**{name: getattr(own, name) for name in same}, sliding_window=window)
    image_token = base.config.image_token_id
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=base.config.vision_config, text_config=text, image_token_index=image_token)
    )
    yarbus.attach(lively(model), processor, head=CARPE())
    as_after_training(model).eval()
    questions = ["what digit is red and where is the blue one and which colour is the digit ?", "where is it ?"]
    batch = ask(processor, pictures, questions)
    options = {**OPTIONS, "suppress_tokens": [image_token], "output_logits": True, "return_dict_in_generate": True}
    expected, expected_logits = stepwise(model, batch, 4)
    for kind in (None, "static"):
        found = model.generate(**batch, **options, cache_implementation=kind)
        assert torch.equal(found.sequences, expected)
        torch.testing.assert_close(torch.stack(found.logits), expected_logits, atol=2e-5, rtol=1e-4)


def test_an_offloaded_cache_is_refused_with_the_reason(pictures):
    model, processor = attached("llava")
    cache = DynamicCache(config=model.config.text_config)
    # Only a GPU can offload: here the cache says so once the language model is through with it.
    model.model.language_model.register_forward_hook(lambda *_: setattr(cache, "offloading", True))
    with pytest.raises(DataError, match="in an offloaded cache.*in the place of the first block's"):
        model(**ask(processor, pictures), past_key_values=cache, use_cache=True)


@families
def test_beams_have_the_scores_of_their_sequences(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures)
    found = model.generate(
        **batch, **OPTIONS, num_beams=3, num_return_sequences=2, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True, suppress_tokens=[model.config.image_token_id],
    )  # fmt: skip
    length = batch["input_ids"].shape[1]
    for number, sequence in enumerate(found.sequences):
        row = number // 2
        alone = ask(processor, pictures[row : row + 1], [QUESTIONS[row]])
        keep = batch["attention_mask"][row].bool()
        ids = torch.cat([batch["input_ids"][row][keep], sequence[length:]])[None]
        whole = {**alone, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in whole:
            whole["mm_token_type_ids"] = F.pad(whole["mm_token_type_ids"], (0, 4))
        with torch.no_grad():
            scores = model(**whole).logits[0, -5:-1]
        expected = scores.log_softmax(dim=-1).gather(1, sequence[length:, None]).sum()
        torch.testing.assert_close(found.sequences_scores[number], expected, atol=1e-4, rtol=1e-4)


@families
def test_a_mixed_batch_with_padding_answers_like_each_row_alone(family, pictures):
    model, processor = attached(family)
    messages = [
        [{"role": "user", "content": [{"type": "text", "text": "what digit is red ?"}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the blue one ?"}]}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "which ?"}]}],
    ]
    shown = [[], [pictures[0]], [pictures[1], pictures[2]]]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    mixed = processor(images=shown, text=text, padding=True, return_tensors="pt")
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    together = model.generate(**mixed, **options)[:, -4:]
    for row in range(3):
        images = {"images": [shown[row]]} if shown[row] else {}
        alone = processor(**images, text=text[row : row + 1], padding=True, return_tensors="pt")
        assert torch.equal(model.generate(**alone, **options)[0, -4:], together[row])


@families
def test_sampling_with_a_seed_and_prompt_lookup_work(family, pictures):
    model, processor = attached(family)
    batch = ask(processor, pictures[:1], QUESTIONS[:1])
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(model.generate(**batch, max_new_tokens=4, do_sample=True, num_return_sequences=2))
    assert torch.equal(*drawn)
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id]}
    looked_up = model.generate(**batch, **options, prompt_lookup_num_tokens=2)  # cuts the cache where it guessed wrong
    assert torch.equal(looked_up, model.generate(**batch, **options))


def test_vision_is_adapted_once_and_weights_are_asked_once_per_answer(pictures):
    model, processor = attached("llava")
    head, runs = model.model.context_head, {"adapter": 0, "encoder": 0}
    head.adapter.register_forward_hook(lambda *_: runs.__setitem__("adapter", runs["adapter"] + 1))
    after_text = head.prompt.after_text
    head.prompt.after_text = lambda *args: runs.__setitem__("encoder", runs["encoder"] + 1) or after_text(*args)
    model.generate(**ask(processor, pictures), **OPTIONS)
    assert runs == {"adapter": 1, "encoder": 1}


def test_an_answer_after_several_questions_has_the_weight_of_the_last(pictures):
    model, processor = attached("llava")
    turns = [("user", QUESTIONS[0]), ("assistant", "one"), ("user", QUESTIONS[1])]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    messages[0]["content"].insert(0, {"type": "image"})
    text = processor.apply_chat_template([messages], add_generation_prompt=True)
    said = [[QUESTIONS[0], f"{QUESTIONS[0]}\n{QUESTIONS[1]}"]]
    batch = processor(images=[[pictures[0]]], text=text, said=said, return_tensors="pt")
    with attachment_of(model).slot.recording() as recorder:
        model.generate(**batch, **OPTIONS)
    of_turns = recorder.of("mixing_weights")[0][0][0, :, 0]
    used = torch.cat(recorder.of("vision_weight")[0], dim=1)
    assert of_turns[0] != of_turns[1] and torch.equal(used, of_turns[1].expand_as(used))


def test_a_new_question_in_a_running_conversation_gets_a_weight_of_its_own(pictures):
    model, processor = attached("llava")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what digit is red ?"}]}]
    first = processor(
        images=[pictures[0]],
        text=processor.apply_chat_template([asked], add_generation_prompt=True),
        return_tensors="pt",
    )
    options = {**OPTIONS, "suppress_tokens": [model.config.image_token_id], "return_dict_in_generate": True}
    found = model.generate(**first, **options)
    layer = HeadLayer.of(found.past_key_values)
    before = layer.side["weight"].clone()
    more = processor.tokenizer("USER: where is the blue one ? ASSISTANT:", return_tensors="pt")["input_ids"]
    ids = torch.cat([found.sequences, more], dim=1)
    said = processor(text=["USER: what digit is red ? ASSISTANT: one</s>USER: where is the blue one ? ASSISTANT:"],
                     return_tensors="pt")  # fmt: skip
    question = {name: said[name] for name in ("context_prompt_ids", "context_prompt_mask")}
    mask = torch.ones_like(ids)
    going_on = model.generate(
        input_ids=ids, attention_mask=mask, **question, **options, output_logits=True,
        past_key_values=found.past_key_values,
    )  # fmt: skip
    assert layer.side["weight"] != before
    whole = {"pixel_values": first["pixel_values"], "input_ids": ids, "attention_mask": mask, **question}
    # Alone, the whole sequence has one weight: the last turn's; the first answer's states were written with another,
    # which no later state looks at but through the language model's own keys.
    torch.testing.assert_close(going_on.logits[0], logits(model, whole)[:, -1], atol=2e-5, rtol=1e-4)


def test_pictures_that_come_after_cached_words_are_refused(pictures):
    model, processor = attached("llava")
    batch = ask(processor, pictures[:1], QUESTIONS[:1])
    words = ask(processor, pictures, QUESTIONS[:1], images_per_row=0)
    with torch.no_grad():
        cache = model(**words, use_cache=True).past_key_values
        mask = torch.cat([words["attention_mask"], batch["attention_mask"]], dim=1)
        with pytest.raises(DataError, match="start without past_key_values"):
            model(**{**batch, "attention_mask": mask}, past_key_values=cache)
        seen = model(**batch, use_cache=True).past_key_values
        mask = torch.cat([batch["attention_mask"]] * 2, dim=1)
        with pytest.raises(DataError, match="a new picture on cached text"):
            model(**{**batch, "attention_mask": mask}, past_key_values=seen)


def test_a_cache_that_is_cut_reordered_or_repeated_takes_all_it_holds_along():
    layer = HeadLayer()
    layer.update(torch.randn(2, 1, 5, 3), torch.randn(2, 1, 5, 3))
    layer.side = {"text": torch.arange(10).view(2, 5) % 2 == 0, "weight": torch.tensor([[0.1], [0.9]])}
    layer.crop(-2)
    assert layer.side["text"].shape == (2, 3) and layer.get_seq_length() == 3
    layer.batch_repeat_interleave(2)
    assert layer.side["weight"][:, 0].tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])
    layer.reorder_cache(torch.tensor([3, 0, 0, 1]))
    layer.batch_select_indices(torch.tensor([0, 1]))
    assert layer.side["weight"][:, 0].tolist() == pytest.approx([0.9, 0.1])
    layer.reset()
    assert layer.side == {} and layer.get_seq_length() == 0


# ---- together ----


@families
def test_covft_and_carpe_train_and_are_saved_as_one_adapter(family, text_encoder, pictures, tmp_path):
    model, processor = tiny.FAMILIES[family]()
    torch.manual_seed(1)
    yarbus.attach(
        model, processor, vision=CoVFT(num_experts=2, context_dim=16), projector="full", head=CARPE(),
        text_encoder=text_encoder,
    )  # fmt: skip
    as_after_training(model).train()
    batch = ask(processor, pictures)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    groups = parameter_groups(model)
    assert set(groups) == {"vision", "vision_new", "router", "projector", "head"}
    assert all(p.grad is not None and p.grad.any() for group in groups.values() for p in group.values())
    yarbus.save_adapter(model.eval(), tmp_path, processor)
    again, its_processor = yarbus.load_adapter(*tiny.FAMILIES[family](), tmp_path)
    asked = ask(its_processor, pictures)
    assert asked.keys() == batch.keys()
    assert torch.equal(logits(again.eval(), asked), logits(model, batch))
    assert torch.equal(again.generate(**asked, **OPTIONS), model.generate(**batch, **OPTIONS))


def test_copies_keep_their_own_caches(pictures):
    model, processor = attached("llava")
    batch = ask(processor, pictures)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.generate(**batch, **OPTIONS), model.generate(**batch, **OPTIONS))


def test_plan_counts_what_the_head_adds():
    model, processor = tiny.llava()
    yarbus.attach(model, processor, head=CARPE(num_heads=4))
    plan, dim, wide = yarbus.plan(model), 48, 4 * 48
    adapter = 32 * dim + dim + dim * dim + dim
    integrator = 8 * dim * dim + 2 * dim * wide + wide + dim + 3 * dim
    assert plan.groups() == {
        "router": dim + 2 * dim + 2,
        "head": adapter + integrator + dim + model.lm_head.weight.numel(),
    }
    assert {row.place for row in plan.rows if row.group in ("head", "router")} == {"head"}


def test_the_library_class_is_back_after_detach():
    model, processor = tiny.llava()
    yarbus.attach(model, processor, head=CARPE())
    assert type(model) is not LlavaForConditionalGeneration and VLM.of(model)
    yarbus.detach(model, processor)
    assert type(model) is LlavaForConditionalGeneration and not hasattr(processor, "asks_head")
