"""Replies kept, resumed, refused and scored, on a tiny random Llava."""

import copy
import json
import random
import re
from dataclasses import replace

import pytest
import torch

import yarbus
from tests.evaluation.conftest import NAME, declare, place, with_answer
from tests.tiny import FAMILIES, llava, text_encoder_folder
from yarbus.core.errors import ConfigError, DataError, MismatchError
from yarbus.data.collate import prompt_batch
from yarbus.evaluation import runner
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.runner import evaluate, generate, rescore
from yarbus.methods.covft import CoVFT


def rows_of(run) -> list[dict]:
    return [json.loads(line) for line in (place(run) / "replies.jsonl").read_text().splitlines()]


def by_id(rows: list[dict]) -> dict[str, dict]:
    return {row["sample_id"]: row for row in rows}


@pytest.fixture
def finished(tiny, toy, tmp_path):
    """A run folder with all replies, and the scores that ``evaluate`` returned."""
    run = tmp_path / "run"
    return run, evaluate(*tiny, [NAME], run, batch=3, progress=False)[NAME]


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """Sample ids of every batch that is asked from now on."""
    batches = []
    original = runner.generate

    def spy(model, processor, samples, protocol):
        batches.append([sample.id for sample in samples])
        return original(model, processor, samples, protocol)

    monkeypatch.setattr(runner, "generate", spy)
    return batches


def test_every_reply_is_on_disk_with_what_is_needed_to_judge_it_again(finished, samples):
    run, scores = finished
    rows = by_id(rows_of(run))
    assert set(rows) == {sample.id for sample in samples}
    row = rows["1-0"]
    assert row["question"] == "where is the blue one ?"
    assert (row["answer"], row["task"], row["group"], row["error"]) == ("three", "t0", "1", None)
    assert row["images"] == [str(samples[2].images[0])]
    assert all("</s>" not in row["reply"] and row["reply"] == row["reply"].strip() for row in rows.values())
    assert scores["num_replies"] == scores["num_samples"] == 8
    assert scores["metrics"]["accuracy"]["chance"] == 0.1
    assert json.loads((place(run) / "scores.json").read_text()) == scores


def test_replies_do_not_depend_on_the_batch(finished, tiny, toy, tmp_path):
    run, _ = finished
    evaluate(*tiny, [NAME], tmp_path / "alone", batch=1, progress=False)
    replies = [
        {name: row["reply"] for name, row in by_id(rows_of(folder)).items()} for folder in (run, tmp_path / "alone")
    ]
    assert replies[0] == replies[1]
    assert any(replies[0].values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_that_hears_the_question_is_evaluated_in_any_batch(family, samples, monkeypatch, tmp_path):
    model, processor = FAMILIES[family]()
    encoder = str(text_encoder_folder(tmp_path / "encoder"))
    model, processor = yarbus.attach(
        model, processor, vision=CoVFT(num_experts=2, context="text"), text_encoder=encoder
    )
    declare(
        monkeypatch, Benchmark(name=NAME, samples=lambda: samples, protocols={"official": Protocol(max_new_tokens=4)})
    )
    replies = []
    for batch in (3, 1):
        scores = evaluate(model, processor, [NAME], tmp_path / f"run{batch}", batch=batch, progress=False)[NAME]
        assert scores["num_errors"] == 0
        replies.append({name: row["reply"] for name, row in by_id(rows_of(tmp_path / f"run{batch}")).items()})
    assert replies[0] == replies[1]


def test_generation_is_greedy_and_equals_the_argmax_without_cache(tiny, samples):
    model, processor = tiny
    batch = prompt_batch(processor, samples[:1])
    tokens = batch["input_ids"]
    for _ in range(3):
        with torch.no_grad():
            logits = model(
                **{**batch, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, use_cache=False
            ).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    expected = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert generate(model, processor, samples[:1], Protocol(max_new_tokens=3)) == [expected[0].strip()]


def test_settings_of_the_checkpoint_do_not_bend_greedy_replies(samples):
    model, processor = llava()
    plain = generate(model, processor, samples[:4], Protocol(max_new_tokens=6))
    own = model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.temperature, own.do_sample = 9.0, 1, 5.0, True
    own.suppress_tokens = [processor.tokenizer.convert_tokens_to_ids(word) for word in " ".join(plain).split()]
    assert any(plain)
    assert generate(model, processor, samples[:4], Protocol(max_new_tokens=6)) == plain
    assert model.generation_config is own


def test_a_right_answer_scores(tiny, samples, monkeypatch, tmp_path):
    said = generate(*tiny, samples[:1], Protocol(max_new_tokens=4))[0]
    right = [with_answer(samples[0], said.upper() + "."), with_answer(samples[1], "never said")]
    declare(
        monkeypatch, Benchmark(name=NAME, samples=lambda: right, protocols={"official": Protocol(max_new_tokens=4)})
    )
    scores = evaluate(*tiny, [NAME], tmp_path / "run", progress=False)[NAME]
    assert scores["metrics"]["accuracy"]["value"] == 0.5


def test_only_missing_replies_are_asked_again_and_the_scores_are_those_of_an_unbroken_run(finished, tiny, asked):
    run, scores = finished
    path = place(run) / "replies.jsonl"
    whole = by_id(rows_of(run))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]))
    (place(run) / "scores.json").unlink()
    again = evaluate(*tiny, [NAME], run, batch=3, progress=False)[NAME]
    missing = {json.loads(line)["sample_id"] for line in lines[5:]}
    assert {name for batch in asked for name in batch} == missing
    assert again == scores
    assert by_id(rows_of(run)) == whole
    assert len(rows_of(run)) == 8


@pytest.mark.filterwarnings("ignore:.*torn")
def test_a_torn_last_line_is_dropped_and_its_sample_asked_again(finished, tiny, asked):
    run, scores = finished
    path = place(run) / "replies.jsonl"
    content = path.read_bytes()
    torn = json.loads(content.splitlines()[-1])["sample_id"]
    path.write_bytes(content[:-20])
    assert evaluate(*tiny, [NAME], run, progress=False)[NAME] == scores
    assert asked == [[torn]]
    assert len(rows_of(run)) == 8


@pytest.mark.filterwarnings("ignore:.*torn")
def test_replies_cut_anywhere_lead_to_the_same_scores_with_each_id_once(finished, tiny):
    """What a kill at any moment leaves is some beginning of the file."""
    run, scores = finished
    path = place(run) / "replies.jsonl"
    content = path.read_bytes()
    for end in random.Random(0).sample(range(len(content)), 15):
        path.write_bytes(content[:end])
        assert evaluate(*tiny, [NAME], run, batch=3, progress=False)[NAME] == scores
        assert len(rows_of(run)) == len(by_id(rows_of(run))) == 8


def test_a_finished_evaluation_asks_nothing(finished, tiny, asked):
    run, scores = finished
    assert evaluate(*tiny, [NAME], run, progress=False)[NAME] == scores
    assert asked == []


def test_replies_of_another_model_are_refused_with_both_hashes_and_stay(finished, tiny):
    run, _ = finished
    model, processor = tiny
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    before = (place(run) / "replies.jsonl").read_bytes()
    with pytest.raises(MismatchError, match=r"on disk [0-9a-f]{16}, now [0-9a-f]{16}; fix:") as caught:
        evaluate(other, processor, [NAME], run, progress=False)
    assert caught.value.exit_code == 78
    hashes = re.findall(r"[0-9a-f]{16}", str(caught.value))
    assert len(set(hashes)) == 2
    assert (place(run) / "replies.jsonl").read_bytes() == before


def test_replies_under_another_template_are_refused(finished, tiny):
    run, _ = finished
    model, processor = tiny
    other = copy.deepcopy(processor)
    other.chat_template = processor.chat_template.replace("USER", "user")
    with pytest.raises(MismatchError, match="processor"):
        evaluate(model, other, [NAME], run, progress=False)


def test_replies_of_another_protocol_have_a_folder_of_their_own(finished, tiny):
    run, _ = finished
    evaluate(*tiny, [NAME], run, protocol="short", progress=False)
    assert (run / "evaluation" / "final" / "toy" / "mixed@short" / "scores.json").exists()
    assert all(len(row["reply"].split()) <= 4 for row in rows_of(run))


def test_replies_cut_at_another_length_are_refused(finished, tiny, samples, monkeypatch):
    run, _ = finished
    declare(
        monkeypatch, Benchmark(name=NAME, samples=lambda: samples, protocols={"official": Protocol(max_new_tokens=9)})
    )
    with pytest.raises(MismatchError, match="length of replies.*on disk 4, now 9"):
        evaluate(*tiny, [NAME], run, progress=False)


@pytest.mark.parametrize("change", ["answer", "picture", "fewer"])
def test_replies_to_other_data_are_refused(finished, tiny, samples, monkeypatch, change):
    run, _ = finished
    other = list(samples)
    if change == "answer":
        other[0] = with_answer(other[0], "four")
    elif change == "fewer":
        other = other[1:]
    else:
        path = other[0].images[0]
        path.write_bytes(other[2].images[0].read_bytes())
    declare(
        monkeypatch, Benchmark(name=NAME, samples=lambda: other, protocols={"official": Protocol(max_new_tokens=4)})
    )
    with pytest.raises(MismatchError, match="other data"):
        evaluate(*tiny, [NAME], run, progress=False)


def test_more_data_of_the_same_kind_is_asked_in_addition(finished, tiny, samples, monkeypatch, asked):
    run, _ = finished
    more = [*samples, replace(samples[0], id="new")]
    declare(monkeypatch, Benchmark(name=NAME, samples=lambda: more, protocols={"official": Protocol(max_new_tokens=4)}))
    assert evaluate(*tiny, [NAME], run, progress=False)[NAME]["num_replies"] == 9
    assert asked == [["new"]]


def test_replies_without_their_identity_are_refused(finished, tiny):
    run, _ = finished
    (place(run) / "identity.json").unlink()
    with pytest.raises(MismatchError, match="unknown origin"):
        evaluate(*tiny, [NAME], run, progress=False)


def test_a_failing_sample_is_recorded_counted_as_wrong_reported_and_asked_again_once_mended(
    tiny, toy, samples, tmp_path, capsys
):
    run, broken = tmp_path / "run", samples[0].images[0]
    good = broken.read_bytes()
    broken.write_bytes(b"not a picture")
    scores = evaluate(*tiny, [NAME], run, batch=4)[NAME]
    failed = [row for row in rows_of(run) if row["error"]]
    assert {row["sample_id"] for row in failed} == {"0-0", "0-1"}
    assert all(row["is_correct"] is False and row["reply"] == "" and "0.png" in row["error"] for row in failed)
    assert (scores["num_errors"], scores["metrics"]["accuracy"]["n"]) == (2, 8)
    assert "2 samples failed and count as wrong" in capsys.readouterr().err
    broken.write_bytes(good)
    assert evaluate(*tiny, [NAME], run, progress=False)[NAME]["num_errors"] == 0
    assert len(rows_of(run)) == 8


def test_too_many_failing_samples_stop_with_the_first_reason_and_keep_the_replies(tiny, toy, samples, tmp_path):
    for sample in samples[:6]:
        sample.images[0].write_bytes(b"not a picture")
    with pytest.raises(DataError, match="more than 1 of 8 samples of toy/mixed failed") as caught:
        evaluate(*tiny, [NAME], tmp_path / "run", batch=2, progress=False, max_errors=1)
    assert caught.value.exit_code == 65
    assert len(rows_of(tmp_path / "run")) >= 2


def test_more_than_a_small_share_of_failing_samples_is_no_score(tiny, toy, samples, tmp_path):
    for sample in samples[:4]:
        sample.images[0].write_bytes(b"not a picture")
    with pytest.raises(DataError, match="more than 2 of 8 samples of toy/mixed failed"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)
    assert not (place(tmp_path / "run") / "scores.json").exists()


def test_a_benchmark_whose_every_sample_fails_is_no_score_of_zero(tiny, samples, tmp_path, monkeypatch):
    samples[0].images[0].write_bytes(b"not a picture")
    declare(monkeypatch, Benchmark(name=NAME, samples=lambda: samples[:2]))
    with pytest.raises(DataError, match="all 2 samples of toy/mixed failed"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)
    assert not (place(tmp_path / "run") / "scores.json").exists()


def test_failing_samples_are_told_also_without_progress(tiny, toy, samples, tmp_path, capsys):
    samples[0].images[0].write_bytes(b"not a picture")
    evaluate(*tiny, [NAME], tmp_path / "run", progress=False)
    assert "2 samples failed and count as wrong" in capsys.readouterr().err


def test_a_picture_that_the_processor_refuses_is_a_failing_sample(tiny, toy, tmp_path, monkeypatch):
    original = runner.generate

    def refuse(model, processor, samples, protocol):
        if any(sample.id == "0-0" for sample in samples):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return original(model, processor, samples, protocol)

    monkeypatch.setattr(runner, "generate", refuse)
    assert evaluate(*tiny, [NAME], tmp_path / "run", progress=False)[NAME]["num_errors"] == 1
    failed = [row["error"] for row in rows_of(tmp_path / "run") if row["error"]]
    assert failed == ["ValueError: absolute aspect ratio must be smaller than 200"]


@pytest.mark.parametrize("error", [RuntimeError, TypeError, KeyError, IndexError])
def test_a_mistake_of_ours_is_no_wrong_answer(tiny, toy, tmp_path, monkeypatch, error):
    def crash(*_):
        raise error("our mistake")

    monkeypatch.setattr(runner, "generate", crash)
    with pytest.raises(error, match="our mistake"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)


def test_out_of_memory_in_a_batch_asks_its_samples_one_by_one(tiny, toy, tmp_path, monkeypatch):
    original, sizes = runner.generate, []

    def small_card(model, processor, samples, protocol):
        sizes.append(len(samples))
        if len(samples) > 1:
            raise torch.OutOfMemoryError("no memory left")
        return original(model, processor, samples, protocol)

    monkeypatch.setattr(runner, "generate", small_card)
    scores = evaluate(*tiny, [NAME], tmp_path / "run", batch=4, progress=False)[NAME]
    assert (scores["num_errors"], scores["num_replies"]) == (0, 8)
    assert sizes == [4, 1, 1, 1, 1] * 2


def test_a_wrong_set_up_is_no_failing_sample(tiny, toy, tmp_path, monkeypatch):
    def unset(*_):
        raise ConfigError("no context", fix="pass context=")

    monkeypatch.setattr(runner, "generate", unset)
    with pytest.raises(ConfigError, match="no context"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)


def test_a_judge_that_crashes_leaves_the_replies_on_disk_and_scoring_runs_again_alone(
    tiny, samples, tmp_path, monkeypatch
):
    def crash(text, answer):
        raise RuntimeError("bad answer text")

    protocols = {"official": Protocol(max_new_tokens=4, judge=crash)}
    declare(monkeypatch, Benchmark(name=NAME, samples=lambda: samples, protocols=protocols))
    with pytest.raises(RuntimeError, match="bad answer text"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)
    assert [row["is_correct"] for row in rows_of(tmp_path / "run")] == [None] * 8
    protocols = {"official": Protocol(max_new_tokens=4, judge=lambda text, answer: True)}
    declare(monkeypatch, Benchmark(name=NAME, samples=lambda: pytest.fail("needs no data"), protocols=protocols))
    assert rescore(place(tmp_path / "run"))["metrics"]["accuracy"]["value"] == 1.0
    assert all(row["is_correct"] is True for row in rows_of(tmp_path / "run"))


def test_scores_made_again_from_the_replies_alone_are_the_same(finished):
    run, scores = finished
    (place(run) / "scores.json").unlink()
    assert rescore(place(run)) == scores


def test_two_questions_of_one_id_are_refused_before_any_is_asked(tiny, samples, tmp_path, monkeypatch, asked):
    declare(monkeypatch, Benchmark(name=NAME, samples=lambda: [*samples, samples[0]]))
    with pytest.raises(DataError, match="two questions are called '0-0'"):
        evaluate(*tiny, [NAME], tmp_path / "run", progress=False)
    assert asked == []


def test_an_unknown_protocol_or_batch_is_refused_before_any_work(tiny, toy, tmp_path):
    with pytest.raises(ConfigError, match="protocol"):
        evaluate(*tiny, [NAME], tmp_path / "run", protocol="x", progress=False)
    with pytest.raises(ConfigError, match="batch"):
        evaluate(*tiny, [NAME], tmp_path / "run", batch=0, progress=False)
    assert not (tmp_path / "run").exists()


def test_the_model_comes_back_in_the_mode_it_came_in_and_can_still_be_trained(tiny, toy, tmp_path):
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    model.train()
    evaluate(model, processor, [NAME], tmp_path / "run", progress=False)
    assert model.training


def test_progress_without_a_terminal_is_plain_lines(tiny, toy, tmp_path, capsys):
    evaluate(*tiny, [NAME], tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"evaluate {NAME}: 8/8, 0 s left"
    assert not any("\x1b" in line for line in lines)
