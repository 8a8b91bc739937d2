"""Adapters and full models: written, read, and refused where they do not belong."""

import json
import shutil

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, BertConfig

import yarbus
from tests import tiny
from tests.models.batches import ask
from tests.models.test_question_path import METHODS, attached
from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.methods import CoVFT
from yarbus.models.attach import set_stage
from yarbus.models.attachment import adapter_tensors, is_attached, load_adapter_tensors
from yarbus.models.hub import FILES


@pytest.fixture(params=list(tiny.FAMILIES))
def family(request):
    return request.param


def trained(family, text_encoder, kind="cve-dense"):
    """A model whose every trained tensor differs from what attach made of it."""
    model, processor = attached(family, text_encoder, METHODS[kind])
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.01
    return model, processor


@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_of_method_saves_and_loads(kind, text_encoder, pictures, tmp_path):
    model, processor = trained("llava", text_encoder, kind)
    batch = ask(processor, pictures)
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    from_adapter, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path / "adapter")
    from_full, _ = yarbus.load(tmp_path / "full")
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(from_adapter(**ask(its_processor, pictures)).logits, expected)
        assert torch.equal(from_full.eval()(**batch).logits, expected)


def test_a_loaded_full_model_keeps_its_plan_trains_and_saves_again(text_encoder, pictures, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save(model, processor, tmp_path / "full")
    loaded, its_processor = yarbus.load(tmp_path / "full")
    assert yarbus.plan(loaded).rows == yarbus.plan(model).rows
    batch = ask(its_processor, pictures)
    loaded(**batch, labels=batch["input_ids"]).loss.backward()
    yarbus.save(loaded, its_processor, tmp_path / "again")
    again, _ = yarbus.load(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    with pytest.raises(ConfigError, match="loaded whole"):
        yarbus.detach(loaded)


def test_a_base_from_disk_survives_a_full_save(family, text_encoder, pictures, tmp_path):
    """Tensors that the library renames on disk are looked up by class: seen only on models from from_pretrained."""
    fresh, processor = tiny.FAMILIES[family]()
    fresh.save_pretrained(tmp_path / "base")
    model = type(fresh).from_pretrained(tmp_path / "base").eval()
    yarbus.attach(model, processor, vision=METHODS["cve-dense"], language="full", text_encoder=text_encoder)
    yarbus.save(model, processor, tmp_path / "full")
    loaded, its_processor = yarbus.load(tmp_path / "full")
    yarbus.save(loaded, its_processor, tmp_path / "again")
    again, _ = yarbus.load(tmp_path / "again")
    for twin in (loaded, again):
        assert twin.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in twin.state_dict().items())


def test_plain_auto_model_refuses_our_full_model(family, text_encoder, tmp_path):
    model, processor = trained(family, text_encoder)
    yarbus.save(model, processor, tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]
    assert type(model).__name__.startswith("Context")  # serving engines do not know it, and refuse
    model.save_pretrained(tmp_path / "by_hand")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "by_hand")


@pytest.mark.parametrize("lies", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_a_full_model_is_not_written_beside_a_plain_one_that_would_be_loaded_for_it(lies, text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    (tmp_path / lies).write_bytes(b"the base's")
    with pytest.raises(CheckpointError, match=f"a plain model lies here: .*{lies}"):
        yarbus.save(model, processor, tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(lies, b"the base's")]
    assert not hasattr(model.config, "yarbus")


@pytest.mark.parametrize("order", ["whole, then shards", "shards, then whole"])
def test_a_full_model_is_read_as_it_was_saved_last(order, text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    sizes = ["50GB", "60KB"] if order == "whole, then shards" else ["60KB", "50GB"]
    for size in sizes:
        with torch.no_grad():
            model.lm_head.weight += 0.5
        model.save_pretrained(tmp_path, max_shard_size=size)
        processor.save_pretrained(tmp_path)
    loaded, _ = yarbus.load(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_model_without_inserted_modules_stays_a_plain_model(text_encoder, pictures, tmp_path):
    model, processor = tiny.llava()
    batch = ask(processor, pictures)
    yarbus.attach(model, processor, vision="full", projector="full", text_encoder=text_encoder)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            tensor += 0.01
        expected = model(**batch).logits
    yarbus.save(model, processor, tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(plain(**batch).logits, expected)


def test_a_missing_or_unexpected_tensor_of_a_full_model_is_an_error(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save(model, processor, tmp_path)
    path = tmp_path / "model.yarbus.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("up_weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing"):
        yarbus.load(tmp_path)
    save_file({**tensors, "model.surprise": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="surprise.*unexpected"):
        yarbus.load(tmp_path)


def test_a_wrong_base_is_refused_with_both_fingerprints_and_left_alone(text_encoder, pictures, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    other, its_processor = tiny.llava()
    with torch.no_grad():
        other.model.language_model.layers[0].mlp.up_proj.weight += 0.01
    mine = json.loads((tmp_path / "adapter.json").read_text())["base"]["fingerprint"]
    with pytest.raises(MismatchError, match=f"{mine}.*this is LlavaForConditionalGeneration [0-9a-f]{{16}}"):
        yarbus.load_adapter(other, its_processor, tmp_path)
    assert not is_attached(other)
    with pytest.raises(MismatchError):
        yarbus.load_adapter(*tiny.llava(num_vision_blocks=5), tmp_path)


def test_the_fingerprint_of_one_model_is_the_same_in_bf16(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    base, its_processor = tiny.llava()
    yarbus.load_adapter(base.to(torch.bfloat16), its_processor, tmp_path)
    assert next(base.parameters()).dtype == torch.bfloat16


OF_TENSORS = ("truncate", "flip", "delete", "no_json", "json")
OF_THE_TOKENIZER = ("tokenizer", "tokenizer's parts", "no tokenizer", "no words")


@pytest.mark.parametrize("damage", [*OF_TENSORS, *OF_THE_TOKENIZER])
def test_a_damaged_adapter_is_refused_and_named(damage, text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    path = tmp_path / "adapter.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-5] ^= 1
        path.write_bytes(data)
    elif damage == "delete":
        path.unlink()
    elif damage == "no_json":
        (tmp_path / "adapter.json").unlink()
    elif damage == "tokenizer":
        (tmp_path / "context_tokenizer" / "tokenizer.json").write_text("{")
    elif damage == "tokenizer's parts":
        (tmp_path / "context_tokenizer" / "tokenizer.json").write_text('{"model": {"type": "none"}}')
    elif damage == "no tokenizer":
        shutil.rmtree(tmp_path / "context_tokenizer")
    elif damage == "no words":
        for file in (tmp_path / "context_tokenizer").iterdir():
            file.unlink()
    else:
        (tmp_path / "adapter.json").write_text("{")
    base, its_processor = tiny.llava()
    with pytest.raises(CheckpointError, match="adapter|context tokenizer"):
        yarbus.load_adapter(base, its_processor, tmp_path)
    assert not is_attached(base) and type(its_processor) is type(tiny.llava()[1])


def test_a_copied_text_encoder_without_its_tokenizer_is_refused(text_encoder, tmp_path):
    """An adapter that was saved without the processor has the tokenizer there alone."""
    model, _ = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path)
    assert not (tmp_path / "context_tokenizer").exists()
    yarbus.load_adapter(*tiny.llava(), tmp_path)
    for file in (tmp_path / "text_encoder").glob("tokenizer*"):
        file.unlink()
    base, its_processor = tiny.llava()
    with pytest.raises(CheckpointError, match="cannot read the context tokenizer.*without words"):
        yarbus.load_adapter(base, its_processor, tmp_path)
    assert not is_attached(base)


def test_a_context_tokenizer_with_other_special_tokens_is_another_one(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    tiny.word_tokenizer(["<pad>", "<unk>"], pad_token="<pad>").save_pretrained(tmp_path / "context_tokenizer")
    base, its_processor = tiny.llava()
    with pytest.raises(MismatchError, match="the context tokenizer is another one.*special tokens"):
        yarbus.load_adapter(base, its_processor, tmp_path)
    assert not is_attached(base)


def test_what_an_older_adapter_left_in_the_folder_is_not_taken_for_the_newer_one_s(text_encoder, pictures, tmp_path):
    older, its_processor = trained("llava", text_encoder)
    yarbus.save_adapter(older, tmp_path, its_processor)
    model, processor = tiny.llava()
    method = CoVFT(num_experts=2, context_dim=16)
    yarbus.attach(model, processor, vision=method, text_encoder="language_embeddings")
    (tmp_path / "notes.txt").write_text("mine")
    yarbus.save_adapter(model, tmp_path)
    loaded, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
    asked, expected = ask(its_processor, pictures), ask(processor, pictures)
    assert torch.equal(asked["context_input_ids"], expected["context_input_ids"])
    assert loaded.model.context_encoder.name == "language_embeddings"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_adapter_is_saved_into_the_folder_it_came_from(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    again, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
    yarbus.save_adapter(again, tmp_path, its_processor)
    third, _ = yarbus.load_adapter(*tiny.llava(), tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in third.state_dict().items())


def test_an_adapter_without_a_list_of_its_parts_has_what_lies_beside_it(text_encoder, pictures, tmp_path):
    """As earlier versions wrote them."""
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    description = json.loads((tmp_path / "adapter.json").read_text())
    assert sorted(description.pop("parts")) == ["context_tokenizer", "text_encoder"]
    (tmp_path / "adapter.json").write_text(json.dumps(description))
    _, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path)
    assert torch.equal(ask(its_processor, pictures)["context_input_ids"], ask(processor, pictures)["context_input_ids"])


def in_hub_cache(folder, cache, name):
    """What huggingface_hub's cache looks like after a download of the folder."""
    home, commit = cache / f"models--{name.replace('/', '--')}", "a" * 40
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


def test_a_full_model_is_loaded_by_hub_name_with_its_processor(text_encoder, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, processor = trained("llava", text_encoder)
    yarbus.save(model, processor, tmp_path / "full")
    snapshot = in_hub_cache(tmp_path / "full", tmp_path / "cache", "me/tuned")
    offline = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    loaded, its_processor = yarbus.load("me/tuned", **offline)
    batch = ask(its_processor, pictures)
    assert torch.equal(batch["context_input_ids"], ask(processor, pictures)["context_input_ids"])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)
    assert loaded.config._name_or_path == "me/tuned"
    shutil.rmtree(snapshot / "context_tokenizer")
    with pytest.raises(CheckpointError, match="the context tokenizer is missing"):
        yarbus.load("me/tuned", **offline)
    with pytest.raises(ConfigError, match="no such model: me/other"):
        yarbus.load("me/other", **offline)


def test_what_is_fetched_from_the_hub_is_all_that_was_saved(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save(model, processor, tmp_path / "full")
    model.save_pretrained(tmp_path / "full", max_shard_size="60KB")
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(filter_repo_objects(names, allow_patterns=list(FILES))) == sorted(names)
    assert any("context_tokenizer/" in name for name in names)


def test_a_model_without_pictures_is_no_model_to_load(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a vision-language model.*BertConfig"):
        yarbus.load(tmp_path)


def test_another_routing_or_text_encoder_is_refused(text_encoder, tmp_path):
    model, processor = trained("llava", text_encoder)
    yarbus.save_adapter(model, tmp_path / "a", processor)
    description = json.loads((tmp_path / "a" / "adapter.json").read_text())
    description["places"]["vision"]["num_experts"] = 4
    (tmp_path / "a" / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(MismatchError, match="does not fit"):
        yarbus.load_adapter(*tiny.llava(), tmp_path / "a")
    yarbus.save_adapter(model, tmp_path / "b", processor)
    weights = tmp_path / "b" / "text_encoder" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="text encoder"):
        yarbus.load_adapter(*tiny.llava(), tmp_path / "b")
    with pytest.raises(ConfigError, match="holds 'covft' already"):
        set_stage(model, processor, {"vision": CoVFT(num_experts=3, context_dim=16, routing="merged")})


def test_loading_tensors_is_all_or_nothing(text_encoder):
    model, _ = trained("llava", text_encoder)
    tensors = {name: tensor.clone() + 1 for name, tensor in adapter_tensors(model).items()}
    before = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    last = sorted(tensors)[-1]
    with pytest.raises(MismatchError, match=last):
        load_adapter_tensors(model, {name: tensor for name, tensor in tensors.items() if name != last})
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter_tensors(model).items())
    load_adapter_tensors(model, tensors)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in adapter_tensors(model).items())


def test_language_embeddings_need_no_second_model(pictures, tmp_path):
    model, processor = tiny.llava()
    method = CoVFT(num_experts=2, context_dim=16)
    yarbus.attach(model, processor, vision=method, language="full", text_encoder="language_embeddings")
    encoder = model.model.context_encoder
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    assert not torch.equal(encoder.encoder.embedding.weight, model.get_input_embeddings().weight)
    batch = ask(processor, pictures)
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    with torch.no_grad():
        expected = model(**batch).logits
        from_adapter, its_processor = yarbus.load_adapter(*tiny.llava(), tmp_path / "adapter")
        assert torch.equal(from_adapter(**ask(its_processor, pictures)).logits, expected)
        assert torch.equal(yarbus.load(tmp_path / "full")[0].eval()(**batch).logits, expected)


def test_detach_after_training_needs_copies_of_the_base(text_encoder, pictures):
    model, processor = tiny.llava()
    places = {"vision": METHODS["cve-dense"], "language": "full"}
    yarbus.attach(model, processor, **places, text_encoder=text_encoder)
    with torch.no_grad():
        model.lm_head.weight += 1
    with pytest.raises(ConfigError, match=r"lm_head\.weight.*keep_base"):
        yarbus.detach(model, processor)
    assert is_attached(model)

    model, processor = tiny.llava()
    batch = ask(processor, pictures)
    with torch.no_grad():
        expected = model(**batch).logits
        yarbus.attach(model, processor, **places, text_encoder=text_encoder, keep_base=True)
        for tensor in adapter_tensors(model).values():
            tensor += 1
        yarbus.detach(model, processor)
        assert torch.equal(model(**batch).logits, expected)
