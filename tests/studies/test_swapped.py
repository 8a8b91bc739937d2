"""The swapped question: who is swapped with whom, and that a model loses exactly what it owes to its context."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import yarbus
from tests import tiny
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import ConfigError
from yarbus.data.collate import prompt_batch
from yarbus.data.sample import Sample, Turn
from yarbus.evaluation.replies import question_of
from yarbus.evaluation.runner import generate, load_benchmark
from yarbus.methods import CARPE, CoVFT
from yarbus.methods.covft import mixtures_of
from yarbus.models.observe import observe
from yarbus.studies import swapped as module
from yarbus.studies.measuring import picture_of
from yarbus.studies.swapped import OTHER, OWN, SAME, choose, partners, swapped_questions

QUESTIONS = {
    "read": ["what digit is red ?", "what digit is blue ?", "what digit is there ?"],
    "locate": ["where is the red one ?", "where is the blue digit ?", "where is the three ?"],
    "colour": ["which colour is the one ?", "which colour is the two ?", "what colour is there ?"],
}


def question(number, words, task, *, group=None, picture=None, answer="one"):
    turns = (Turn("user", f"<image>\n{words}"), Turn("assistant", answer))
    return Sample(f"q{number}", (Path(picture or f"{number}.png"),), turns, task, group)


ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["read", "locate", None]), st.integers(0, 3)))


def questions_of(rows, grouped):
    return [
        question(place, words, task, group=f"s{scene}" if grouped else None, picture=f"{scene}.png")
        for place, (words, task, scene) in enumerate(rows)
    ]


@given(rows=ROWS, grouped=st.booleans())
def test_partners_have_other_words_and_the_task_that_the_swap_says(rows, grouped):
    samples = questions_of(rows, grouped)
    for kind in (SAME, OTHER):
        for sample, partner in zip(samples, partners(samples, kind), strict=True):
            possible = [
                one
                for one in samples
                if question_of(one) != question_of(sample) and (one.task == sample.task) == (kind == SAME)
            ]
            if partner is None:
                assert not possible
                continue
            assert partner in possible
            here = [one for one in possible if picture_of(one) == picture_of(sample)]
            if kind == OTHER and here:
                assert partner in here


@given(rows=ROWS, grouped=st.booleans(), order=st.randoms())
def test_partners_do_not_depend_on_the_order_of_the_questions(rows, grouped, order):
    samples = questions_of(rows, grouped)
    shuffled = order.sample(samples, len(samples))
    for kind in (SAME, OTHER):
        straight = dict(zip([one.id for one in samples], partners(samples, kind), strict=True))
        assert straight == dict(zip([one.id for one in shuffled], partners(shuffled, kind), strict=True))


def write_questions(folder: Path, pictures, name: str = "test.json", *, answers=None, with_task: bool = True) -> str:
    """A benchmark of three tasks about each picture; ``answers`` by id, else ``one``."""
    rows = []
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
        for task, questions in QUESTIONS.items():
            place = f"{number}-{task}"
            turns = [
                {"from": "human", "value": f"<image>\n{questions[number % 3]}"},
                {"from": "gpt", "value": (answers or {}).get(place, "one")},
            ]
            row = {"id": place, "image": f"{number}.png", "conversations": turns, "group": f"scene-{number}"}
            rows.append({**row, "task": task} if with_task else row)
    (folder / name).write_text(json.dumps(rows))
    return f"file:{folder / name}"


def test_questions_are_chosen_by_task_and_the_same_each_time(tmp_path, pictures):
    name = write_questions(tmp_path, pictures)
    some, more = choose([name], 2, "official"), choose([name], 5, "official")
    assert [sample.task for sample, _ in some] == ["read"] * 2 + ["locate"] * 2 + ["colour"] * 2
    assert {sample.id for sample, _ in some} < {sample.id for sample, _ in more}
    assert some == choose([name], 2, "official")


def test_a_benchmark_without_tasks_is_a_task_and_two_are_not_one(tmp_path, pictures):
    first = write_questions(tmp_path, pictures, "a.json", with_task=False)
    second = write_questions(tmp_path, pictures, "b.json", with_task=False)
    assert {sample.task for sample, _ in choose([first, second], 3, "official")} == {first, second}


def test_the_eyes_hear_the_partner_and_the_language_model_its_own_question(text_encoder, tmp_path, pictures):
    _, processor = attached("llava", text_encoder, METHODS["cve-dense"])
    samples = load_benchmark(write_questions(tmp_path, pictures[:2])).samples()[:4]
    others = samples[::-1]
    own, other, swapped = (
        prompt_batch(processor, samples),
        prompt_batch(processor, others),
        prompt_batch(processor, samples, others),
    )
    for key in own:
        expected = other if key.startswith(("context_input", "context_attention")) else own
        assert torch.equal(swapped[key], expected[key]), key
    assert not torch.equal(own["context_input_ids"], other["context_input_ids"])


def make_router_sharp(model, batch):
    """Routing as after much training: which expert an image gets is the question's doing (a random encoder's states
    differ little between questions, so that a random router would send all images the same way)."""
    observed = observe(model, [batch])
    with torch.no_grad():
        for block, contexts in observed.contexts.items():
            router = mixtures_of(model)[block].router
            spread = (contexts @ router.weight.T).std(dim=0, keepdim=True).T
            router.weight *= 10 / spread
            router.bias.copy_(-router.weight @ contexts.mean(dim=0))


@pytest.mark.parametrize("kind", ["text-dense", "text-merged"])
def test_a_model_that_uses_its_question_loses_and_only_by_that(kind, text_encoder, tmp_path, pictures):
    model, processor = attached("llava", text_encoder, METHODS[kind])
    name = write_questions(tmp_path, pictures)
    samples = [sample for sample, _ in choose([name], 8, "official")]
    make_router_sharp(model, {**prompt_batch(processor, samples), "sample_ids": [sample.id for sample in samples]})
    # What it answers to its own question is right by definition: whatever it loses then is the context's doing.
    replies = generate(model, processor, samples, load_benchmark(name).protocol("official"))
    answers = {sample.id: text for sample, text in zip(samples, replies, strict=True)}
    name = write_questions(tmp_path, pictures, answers=answers)
    found = swapped_questions(model, processor, [name], per_task=8, batch=24)
    for task, line in found["tasks"].items():
        said = [text for sample, text in zip(samples, replies, strict=True) if sample.task == task]
        assert (line["n"], line[OWN]) == (8, sum(map(bool, said)) / 8)  # an empty reply is never right
    mean = found["mean"]
    assert mean["loss_other_task"]["low"] > 0 and mean[OTHER] < 0.5 < mean[OWN]
    for line in (mean, *found["tasks"].values()):
        for swap in (SAME, OTHER):
            assert line[f"loss_{swap}"]["mean"] == pytest.approx(line[OWN] - line[swap])
    assert found == swapped_questions(model, processor, [name], per_task=8, batch=24)


def test_a_model_whose_routing_changes_nothing_loses_exactly_nothing(text_encoder, tmp_path, pictures):
    # Experts that are one another's copies: any routing of them is the same tower.
    model, processor = attached("llava", text_encoder, METHODS["text-merged"], spread_experts=False)
    model.train()
    name = write_questions(tmp_path, pictures)
    samples = load_benchmark(name).samples()
    replies = generate(model.eval(), processor, samples, load_benchmark(name).protocol("official"))
    half = {
        sample.id: text if place % 2 else "no"
        for place, (sample, text) in enumerate(zip(samples, replies, strict=True))
    }
    name = write_questions(tmp_path, pictures, answers=half)
    model.train()
    found = swapped_questions(model, processor, [name], per_task=8)
    assert model.training
    for line in (found["mean"], *found["tasks"].values()):
        assert line[OWN] == line[SAME] == line[OTHER]
        for swap in (SAME, OTHER):
            assert line[f"loss_{swap}"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert 0.0 < found["mean"][OWN] < 1.0


def hearing(rule, monkeypatch):
    """``generate`` of a model that is right where ``rule(own sample, partner)`` holds."""

    def reply(model, processor, samples, protocol, asked_by):
        return ["one" if rule(own, told) else "two" for own, told in zip(samples, asked_by, strict=True)]

    monkeypatch.setattr(module, "generate", reply)


def test_a_tower_that_hears_the_task_and_not_the_words_loses_by_the_other_task_alone(
    text_encoder, tmp_path, pictures, monkeypatch
):
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    name = write_questions(tmp_path, pictures)
    hearing(lambda own, told: own.task == told.task, monkeypatch)
    found = swapped_questions(model, processor, [name], per_task=8)["mean"]
    assert (found[OWN], found[SAME], found[OTHER]) == (1.0, 1.0, 0.0)
    hearing(lambda own, told: own.id == told.id, monkeypatch)
    found = swapped_questions(model, processor, [name], per_task=8)["mean"]
    assert (found[OWN], found[SAME], found[OTHER]) == (1.0, 0.0, 0.0)


def test_the_mean_counts_every_task_the_same_and_what_cannot_be_swapped_is_null(
    text_encoder, tmp_path, pictures, monkeypatch
):
    model, processor = attached("llava", text_encoder, METHODS["text-dense"])
    name = write_questions(tmp_path, pictures)
    rows = json.loads((tmp_path / "test.json").read_text())
    hearing(lambda own, told: own.task != "locate", monkeypatch)

    def keep(wanted):
        (tmp_path / "test.json").write_text(json.dumps([row for row in rows if wanted(row)]))
        return swapped_questions(model, processor, [name], per_task=8)

    found = keep(lambda row: row["task"] == "read" or row["id"] in ("0-locate", "1-locate"))
    assert {task: line["n"] for task, line in found["tasks"].items()} == {"read": 8, "locate": 2}
    assert found["mean"][OWN] == 0.5
    alone = keep(lambda row: row["task"] == "read")
    for line in (alone["mean"], alone["tasks"]["read"]):
        assert line[OTHER] is None and line["loss_other_task"] == {"mean": None, "low": None, "high": None}
    json.dumps(alone, allow_nan=False)
    few = keep(lambda row: row["id"] in ("0-read", "1-read", "0-locate"))
    assert few["mean"]["loss_other_task"]["mean"] == 0 and few["mean"]["loss_other_task"]["low"] is None


def test_there_must_be_a_question_and_a_picture_to_swap(text_encoder, tmp_path, pictures):
    name = write_questions(tmp_path, pictures[:1])
    with pytest.raises(ConfigError, match="eyes hear none"):
        swapped_questions(*attached("llava", text_encoder, METHODS["uniform"]), [name])
    turns = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "one"}]
    (tmp_path / "text.json").write_text(json.dumps([{"id": "t", "conversations": turns}]))
    with pytest.raises(ConfigError, match="no picture"):
        swapped_questions(*attached("llava", text_encoder, METHODS["cve-dense"]), [f"file:{tmp_path / 'text.json'}"])


def test_a_head_beside_the_eyes_hears_the_question_that_the_language_model_reads():
    model, processor = tiny.EVERY["llava"]()
    head = CARPE.preset("ours")
    _, processor = yarbus.attach(
        model, processor, vision=CoVFT(num_experts=2, context_dim=16), head=head, text_encoder="language_embeddings"
    )
    own, other = (
        Sample("1", (), (Turn("user", words), Turn("assistant", "one"))) for words in ("what ?", "where is it ?")
    )
    plain, swapped = prompt_batch(processor, [own]), prompt_batch(processor, [own], [other])
    changed = {name for name in plain if not torch.equal(plain[name], swapped[name])}
    assert "context_prompt_ids" in plain and changed == {"context_input_ids", "context_attention_mask"}
