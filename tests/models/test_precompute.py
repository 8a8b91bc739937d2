"""Questions encoded before training: read instead of computed, to the bit, whatever becomes of the folder."""

import copy
import errno
import os
import shutil

import pytest
import torch
from transformers import BertModel

import yarbus
from tests import tiny
from tests.methods.cases import CASES
from tests.models.batches import QUESTIONS, ask
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.methods import CoVFT, QAViT
from yarbus.models import precompute as precomputing
from yarbus.models.attachment import parameter_groups
from yarbus.models.precompute import precompute

COVFT = CoVFT(num_experts=3, context_dim=16, context="text", expert_jitter=1e-2)
ASKING = [name for name, case in CASES.items() if case.method.reads_question]


def attached(text_encoder, place="vision", method=COVFT):
    model, processor = tiny.llava()
    torch.manual_seed(1)
    return yarbus.attach(model, processor, **{place: method}, text_encoder=text_encoder)


def encoder_of(model):
    return model.base_model.context_encoder


def counted(model):
    """Grows by one with each text that is encoded."""
    runs = []
    encoder_of(model).encoder.register_forward_hook(lambda *_: runs.append(1))
    return runs


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def step(model, batch):
    """Loss and gradients of one batch."""
    model.zero_grad()
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    groups = parameter_groups(model).values()
    return [loss.detach(), *(p.grad.clone() for group in groups for p in group.values() if p.grad is not None)]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["language_embeddings", "bert"])
@pytest.mark.parametrize("case", ASKING)
def test_every_method_that_reads_the_question_trains_as_without_a_folder(case, name, text_encoder, pictures, tmp_path):
    name = text_encoder if name == "bert" else name
    place, method = CASES[case].place, CASES[case].method
    plain, processor = attached(name, place, method)
    batch = ask(processor, pictures, QUESTIONS[:3], answers=["one", "two", "red"])
    expected = step(plain, batch)
    for encoded in (3, 0):  # computed for the folder, then found there
        model, processor = attached(name, place, method)
        assert precompute(model, processor, QUESTIONS[:3], tmp_path, progress=False) == encoded
        runs = counted(model)
        assert same(step(model, batch), expected)
        assert not runs


@pytest.mark.parametrize("kept_by", ["covft", "qavit"])
def test_a_folder_keeps_a_row_for_each_text_unless_a_method_reads_tokens(kept_by, text_encoder, tmp_path):
    covft, qavit = attached(text_encoder), attached(text_encoder, method=QAViT(first_block=1))
    precompute(*(covft if kept_by == "covft" else qavit), ["what digit is red ?"], tmp_path, progress=False)
    size = files(tmp_path)[0].stat().st_size
    assert (size > 8 * 16 * 4) == (kept_by == "qavit")  # [CLS], five words, [SEP] and the pooled vector; width 16
    other = qavit if kept_by == "covft" else covft
    assert precompute(*other, ["what digit is red ?"], tmp_path, progress=False) == 1


def test_a_method_that_reads_tokens_and_denies_it_is_told(text_encoder, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(QAViT, "reads_question_tokens", False)
    model, processor = attached(text_encoder, method=QAViT(first_block=1))
    precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="reads_question_tokens"):
        model(**ask(processor, pictures))


def test_only_what_is_missing_is_encoded_and_what_was_not_told_is_encoded_when_asked(text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    assert precompute(model, processor, [QUESTIONS[0], QUESTIONS[0]], tmp_path, progress=False) == 1
    assert precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False) == 1
    runs = counted(model)
    with torch.no_grad():
        model(**ask(processor, pictures, QUESTIONS[:3]))
    assert len(runs) == 1 and len(files(tmp_path)) == 2  # training writes nothing


@pytest.mark.parametrize("rules", ["ours", "official"])
def test_texts_are_cleaned_and_cut_as_in_a_batch(rules, text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    processor.question = type(processor.question)(rules=rules, max_tokens=6)
    told = ["<image>\nwhat digit ?\nAnswer the question using a single word or phrase.", "is " * 40, "", "xylophone"]
    assert precompute(model, processor, told, tmp_path, progress=False) == 4
    runs = counted(model)
    with torch.no_grad():
        model(**ask(processor, pictures, context=told[:2]))
        model(**ask(processor, pictures, context=told[2:]))
    assert not runs


def changed(encoder, by):
    """Another encoder of the same names and shapes."""
    if by == "one bit":
        weight = encoder.encoder.embeddings.word_embeddings.weight
        with torch.no_grad():
            weight.view(-1).view(torch.int32)[-1] ^= 1
    elif by == "precision":
        encoder.to(torch.bfloat16)
    else:
        config = copy.deepcopy(encoder.encoder.config)
        setattr(config, *by)
        other = BertModel(config, add_pooling_layer=False).eval()
        other.load_state_dict(encoder.encoder.state_dict())
        encoder.encoder = other
    encoder.clear_cache()


@pytest.mark.parametrize("by", ["one bit", "precision", ("num_attention_heads", 4), ("hidden_act", "relu")])
def test_another_encoder_never_finds_what_this_one_said(by, text_encoder, tmp_path):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS, tmp_path, progress=False)
    changed(encoder_of(model), by)
    assert precompute(model, processor, QUESTIONS, tmp_path, progress=False) == len(QUESTIONS)


def test_the_encoder_that_an_adapter_or_a_full_model_brings_is_the_same(text_encoder, tmp_path):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS, tmp_path / "kept", progress=False)
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    loaded = yarbus.load_adapter(*tiny.llava(), tmp_path / "adapter"), yarbus.load(tmp_path / "full")
    for one in loaded:
        assert precompute(*one, QUESTIONS, tmp_path / "kept", progress=False) == 0


@pytest.mark.parametrize("harm", ["cut", "one bit", "deleted", "all deleted"])
def test_what_was_damaged_or_deleted_is_computed_again(harm, text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    batch = ask(processor, pictures, answers=["one", "two"])
    expected = step(model, batch)
    precompute(model, processor, QUESTIONS[:2], tmp_path / "kept", progress=False)
    path = files(tmp_path / "kept")[0]
    whole = path.read_bytes()
    if harm == "deleted":
        path.unlink()
    elif harm == "all deleted":
        shutil.rmtree(tmp_path / "kept")
    else:
        path.write_bytes(whole[:-1] if harm == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert same(step(model, batch), expected)
    missing = 2 if harm == "all deleted" else 1
    assert precompute(model, processor, QUESTIONS[:2], tmp_path / "kept", progress=False) == missing
    assert path.read_bytes() == whole


def test_a_full_disk_is_one_message_and_leaves_nothing_half(text_encoder, tmp_path, monkeypatch):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS[:1], tmp_path, progress=False)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"cannot write the text cache: .* - No space left on device; fix: free"):
        precompute(model, processor, QUESTIONS, tmp_path, progress=False)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_folder_that_may_not_be_written_is_read_with_a_warning(text_encoder, tmp_path, monkeypatch, recwarn):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write where nobody else may
    model, processor = attached(text_encoder)
    runs = counted(model)
    assert precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False) == 0 and not recwarn
    with pytest.warns(UserWarning, match="may not be written: .* - 2 of 4 questions are not in it"):
        assert precompute(model, processor, QUESTIONS, tmp_path, progress=False) == 0
    assert not runs and {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_read(text_encoder, tmp_path):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False)
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o555)
    assert precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False) == 0
    with pytest.warns(UserWarning, match="may not be written"):
        assert precompute(model, processor, QUESTIONS, tmp_path, progress=False) == 0


def test_a_folder_that_cannot_be_made_is_named(text_encoder, tmp_path):
    model, processor = attached(text_encoder)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the text cache: .*file") as caught:
        precompute(model, processor, QUESTIONS, tmp_path / "file", progress=False)
    assert caught.value.exit_code == 74


def test_texts_that_would_drive_each_other_out_are_refused_before_any_work(text_encoder, tmp_path):
    model, processor = attached(text_encoder, method=QAViT(first_block=1))
    runs = counted(model)
    many = [f"{'what ' * (1 + number % 50)}{'digit ' * (1 + number // 50)}" for number in range(500)]
    with pytest.raises(
        ConfigError, match=r"token states of 500 questions do not fit.*limit is 1 MiB; fix: .* 2 or more"
    ):
        precompute(model, processor, many, tmp_path / "kept", limit_mib=1, progress=False)
    assert not runs and not (tmp_path / "kept").exists()
    assert precompute(model, processor, many, tmp_path / "kept", limit_mib=2, progress=False) == 500


def test_what_was_first_read_in_inference_mode_may_train(text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    batch = ask(processor, pictures, answers=["one", "two"])
    expected = step(model, batch)
    precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False)
    with torch.inference_mode():
        model(**batch)
    assert same(step(model, batch), expected)


def test_a_copy_of_the_model_reads_the_same_folder(text_encoder, pictures, tmp_path):
    model, processor = attached(text_encoder)
    precompute(model, processor, QUESTIONS[:2], tmp_path, progress=False)
    other = copy.deepcopy(model)
    runs = counted(other)
    with torch.no_grad():
        other(**ask(processor, pictures))
    assert not runs


def test_processes_share_the_texts_and_wait_for_each_other(text_encoder, tmp_path, monkeypatch):
    waited, encoded = [], []
    monkeypatch.setattr(precomputing.distributed, "barrier", lambda: waited.append(1))
    for rank in range(3):
        monkeypatch.setattr(precomputing, "_share", lambda rank=rank: (rank, 3))
        encoded.append(precompute(*attached(text_encoder), QUESTIONS, tmp_path, progress=False))
    assert encoded == [2, 1, 1] and len(waited) == 3 and len(files(tmp_path)) == 4


def test_a_model_that_reads_no_question_is_refused(text_encoder, tmp_path):
    model, processor = tiny.llava()
    yarbus.attach(model, processor, vision="full")
    with pytest.raises(ConfigError, match="no text encoder to precompute with"):
        precompute(model, processor, QUESTIONS, tmp_path, progress=False)
    asking, _ = attached(text_encoder)
    with pytest.raises(ConfigError, match="pass the processor that attach returned"):
        precompute(asking, tiny.llava()[1], QUESTIONS, tmp_path, progress=False)
