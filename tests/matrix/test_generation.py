"""Answers: with a cache as without, in beams, by chance, to a question after an answer."""

import pytest
import torch

from tests.matrix.cells import TOLERANCE, all_models, hears, holds, logits, only
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import DataError
from yarbus.models.attachment import is_attached
from yarbus.models.vlm import VLM


def continued(batch, sequences) -> dict:
    """The batch with the answer behind its prompt, for one forward without cache.

    A head is told where the prompt ends, as it is while an answer grows without a cache.
    """
    whole, prompt = dict(batch), batch["input_ids"].shape[1]
    new = sequences.shape[1] - prompt
    for name, values in batch.items():
        if values.ndim >= 2 and values.shape[:2] == batch["input_ids"].shape and not name.startswith("context_"):
            more = torch.zeros_like(values[:, :1]) if name.endswith("type_ids") else values[:, -1:]
            whole[name] = torch.cat([values, more.expand(-1, new, *values.shape[2:])], dim=1)
    whole["input_ids"] = sequences
    if "context_prompt_ids" in batch:
        whole["context_turn_index"] = torch.full_like(batch["input_ids"], -1)
    return whole


def settings(processor, **more) -> dict:
    """Four words, none of them an image token, for which there would be no image."""
    special = processor.tokenizer.all_special_ids
    return {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "suppress_tokens": special, **more}


def test_greedy_with_cache_gives_the_logits_of_a_recomputation(cell, text_encoder, sizes):
    def check(model, processor):
        batch = ask(processor, sizes[:2], QUESTIONS[:2])
        if is_attached(model) and cell.method.draws_at_random:  # else drawn by the row's words, the answer among them
            batch["context_row_key"] = torch.tensor([5, 6])
        out = model.generate(**batch, **settings(processor), output_logits=True, return_dict_in_generate=True)
        recomputed = logits(model, continued(batch, out.sequences))[:, batch["input_ids"].shape[1] - 1 : -1]
        torch.testing.assert_close(torch.stack(out.logits, dim=1), recomputed, **TOLERANCE)

    holds(check, cell, cell.moved(text_encoder))


def test_greedy_gives_the_words_that_it_gives_without_a_cache(cell, text_encoder, sizes):
    def check(model, processor):
        batch = ask(processor, sizes[:2], QUESTIONS[:2])
        options = settings(processor, suppress_tokens=[model.config.image_token_id])
        assert torch.equal(model.generate(**batch, **options), model.generate(**batch, **options, use_cache=False))

    holds(check, cell, cell.moved(text_encoder))


def test_the_tower_and_the_text_encoder_run_once_per_generate(cell, text_encoder, sizes):
    model, processor = cell.moved(text_encoder)
    batch, vlm = ask(processor, sizes[:2], [QUESTIONS[0]] * 2), VLM.of(model)
    runs = {"tower": 0, "encoder": 0}

    def count(what):
        return lambda *_: runs.__setitem__(what, runs[what] + 1)

    vlm.vision_tower.register_forward_hook(count("tower"))
    encoder = getattr(vlm.base_model, "context_encoder", None)
    if encoder is not None:
        encoder.encoder.register_forward_hook(count("encoder"))
        encoder.clear_cache()
    once = int(encoder is not None)
    model.generate(**batch, max_new_tokens=3, do_sample=False, num_beams=2)
    assert runs == {"tower": 1, "encoder": once}
    model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert runs == {"tower": 2, "encoder": once}


@all_models
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_of_a_row_are_those_that_it_has_alone(cell, options, text_encoder, sizes):
    def check(model, processor):
        per_row = options.get("num_return_sequences", 1)
        given = settings(processor, **options, output_scores=True, return_dict_in_generate=True)
        together = model.generate(**ask(processor, sizes[:2], QUESTIONS[:2]), **given)
        for row in range(2):
            alone = model.generate(**ask(processor, [sizes[row]], [QUESTIONS[row]]), **given)
            mine = slice(row * per_row, (row + 1) * per_row)
            torch.testing.assert_close(together.sequences_scores[mine], alone.sequences_scores, **TOLERANCE)
            assert torch.equal(together.sequences[mine, -4:], alone.sequences[:, -4:])

    holds(check, cell, cell.moved(text_encoder))


@all_models
def test_sampling_with_a_seed_repeats_itself(cell, text_encoder, sizes):
    model, processor = cell.moved(text_encoder)
    batch, options = ask(processor, sizes[:2]), settings(processor, do_sample=True, max_new_tokens=6, min_new_tokens=6)

    def drawn(seed):
        torch.manual_seed(seed)
        return model.generate(**batch, **options)

    first = drawn(0)
    assert torch.equal(drawn(0), first)
    assert any(not torch.equal(drawn(seed), first) for seed in (1, 2, 3))


@all_models
@only(hears)
def test_a_new_question_about_seen_pictures_is_refused_with_the_cache_and_answered_without(cell, text_encoder, sizes):
    model, processor = cell.moved(text_encoder)
    first = ask(processor, sizes[:1], QUESTIONS[:1])
    seen = model.generate(**first, **settings(processor), return_dict_in_generate=True)
    asked = ask(processor, sizes[:1], [QUESTIONS[1]])
    question = {name: value for name, value in asked.items() if name.startswith("context_")}
    ids = torch.cat([seen.sequences, first["input_ids"][:, -2:]], dim=1)
    without = {"pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask", "image_token_pooling"}
    whole = {**continued(first, ids), **question}
    going_on = {name: value for name, value in whole.items() if name not in without and "image" not in name}
    going_on = {name: value for name, value in going_on.items() if "aspect" not in name and "cross" not in name}
    with pytest.raises(DataError, match="a new question on cached pictures"):
        model.generate(**going_on, **settings(processor), past_key_values=seen.past_key_values)
    runs = []
    VLM.of(model).vision_tower.register_forward_hook(lambda *_: runs.append(1))
    assert model.generate(**whole, **settings(processor)).shape[1] == ids.shape[1] + 4
    assert len(runs) == 1
