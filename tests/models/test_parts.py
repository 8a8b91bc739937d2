"""A model from parts has every tensor of its parts and a new projector, and is an ordinary Llava with its processor."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CohereConfig,
    GPT2Config,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PixtralVisionConfig,
    ViTConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests import tiny
from tests.models.batches import ask
from tests.models.parts import NUM_REGISTERS, TOWERS, language_folder, tower_folder, words
from tests.tiny.llava import llava_tokenizer
from yarbus.core.errors import ConfigError
from yarbus.core.parts import parts_of
from yarbus.core.plugins import resolve
from yarbus.models.fingerprint import fingerprint
from yarbus.models.load import base_on_meta, config_of, load_base
from yarbus.models.parts import from_parts
from yarbus.models.vlm import VLM


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> str:
    return language_folder(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    made: dict[str, str] = {}

    def of(kind: str) -> str:
        if kind not in made:
            made[kind] = tower_folder(kind, folder)
        return made[kind]

    return of


def same(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(*parts, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        from_parts(*parts, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@torch.no_grad()
def logits(model, processor, pictures):
    return model.eval()(**ask(processor, pictures)).logits


@pytest.mark.parametrize("kind", TOWERS)
def test_every_tensor_is_the_checkpoints_but_the_projectors(kind, tower, language):
    model, processor = from_parts(tower(kind), language, seed=1)
    assert type(model) is LlavaForConditionalGeneration and type(processor) is LlavaProcessor
    vision = AutoModel.from_pretrained(resolve(tower(kind)), config=model.config.vision_config, dtype=torch.float32)
    assert same(model.model.vision_tower, vision)
    text = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32).state_dict()
    mine = {
        **{f"model.{n}": t for n, t in model.model.language_model.state_dict().items()},
        "lm_head.weight": model.lm_head.weight,
    }
    assert mine.keys() == text.keys()
    assert all(torch.equal(mine[name][: len(tensor)], tensor) for name, tensor in text.items())
    new = set(model.state_dict()) - {f"model.vision_tower.{name}" for name in vision.state_dict()}
    new -= {f"model.language_model.{name.removeprefix('model.')}" for name in text} | {"lm_head.weight"}
    layers = {f"model.multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    assert new == layers


@pytest.mark.parametrize("kind", TOWERS)
def test_it_is_the_same_by_its_name_and_after_saving(kind, tower, language, pictures, tmp_path):
    model, processor = from_parts(tower(kind), language, seed=1)
    expected = logits(model, processor, pictures)
    assert expected.isfinite().all()
    by_name, its_processor = load_base(model.config._name_or_path)
    assert same(model, by_name) and torch.equal(logits(by_name, its_processor, pictures), expected)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert tower(kind) not in written and language not in written
    loaded, its_processor = load_base(str(tmp_path))
    assert fingerprint(loaded.state_dict()) == fingerprint(model.state_dict())
    assert torch.equal(logits(loaded, its_processor, pictures), expected)


@pytest.mark.parametrize("kind", TOWERS)
def test_image_tokens_are_the_patches_alone(kind, tower, language, pictures):
    model, processor = from_parts(tower(kind), language)
    handed = []
    VLM.of(model).projector.register_forward_pre_hook(lambda _, args: handed.append(args[0]))
    batch = ask(processor, pictures[:2])
    with torch.no_grad():
        model(**batch)
    config = model.config.vision_config
    patches = (batch["pixel_values"].shape[-1] // config.patch_size) ** 2
    assert handed[0].shape[:2] == (2, patches)
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist() == [patches, patches]
    assert VLM.of(model).image_tokens == model.config.image_seq_length == patches
    states = AutoModel.from_pretrained(resolve(tower(kind)), config=config, dtype=torch.float32)(
        batch["pixel_values"], output_hidden_states=True
    ).hidden_states
    torch.testing.assert_close(handed[0], states[-2][:, -patches:])  # no class token, no register


@pytest.mark.parametrize("kind", TOWERS)
def test_its_architecture_is_known_before_a_weight_is_read(kind, tower, language):
    model, _ = from_parts(tower(kind), language)
    config = config_of(model.config._name_or_path)
    for whole in (config.to_dict(), model.config.to_dict()):
        planned = base_on_meta(whole)
        assert {n: t.shape for n, t in planned.state_dict().items()} == {
            n: t.shape for n, t in model.state_dict().items()
        }
        assert VLM.of(planned).image_tokens == VLM.of(model).image_tokens
        (pictures, _), vision = VLM.of(planned).family.pictures(planned.config, 1, None), model.config.vision_config
        assert (pictures["pixel_values"].shape[-1] // vision.patch_size) ** 2 == VLM.of(model).image_tokens
    assert getattr(config, "dropped_registers", 0) == (
        NUM_REGISTERS if hasattr(config.vision_config, "num_register_tokens") else 0
    )


def test_the_seed_alone_draws_the_projector_and_nothing_else(tower, language):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (from_parts(tower("clip"), language, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, again)
    moved = {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}
    assert moved == {name for name in one.state_dict() if "multi_modal_projector" in name}
    layer = one.model.multi_modal_projector.linear_1
    assert 0.5 * layer.in_features**-0.5 < float(layer.weight.abs().max()) <= layer.in_features**-0.5


def test_words_alone_are_what_the_language_model_makes_of_them(tower, language):
    model, processor = from_parts(tower("siglip"), language)
    batch = processor.tokenizer(["what digit is red ?"], return_tensors="pt")
    alone = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    ids = batch["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits[..., : alone.config.vocab_size], alone(input_ids=ids).logits)


def test_a_row_for_the_image_token_is_the_mean_of_the_others(tower, language):
    model, processor = from_parts(tower("clip"), language)
    assert processor.image_token_id == model.config.image_token_id == len(words())
    for table in (model.get_input_embeddings().weight, model.lm_head.weight):
        torch.testing.assert_close(table[-1], table[:-1].mean(0))
        assert len(table) == model.config.text_config.vocab_size == len(words()) + 1


def test_no_row_is_made_where_there_is_one(tower, tmp_path):
    knows = language_folder(tmp_path / "knows", llava_tokenizer())
    model, processor = from_parts(tower("clip"), knows)
    assert processor.image_token_id == 3 and model.config.text_config.vocab_size == len(llava_tokenizer())
    spare = language_folder(tmp_path / "spare", vocab_size=64)
    model, processor = from_parts(tower("clip"), spare)
    assert model.config.text_config.vocab_size == 64 and processor.image_token_id == len(words())
    alone = AutoModelForCausalLM.from_pretrained(spare, dtype=torch.float32)
    assert torch.equal(model.get_input_embeddings().weight, alone.get_input_embeddings().weight)


def test_a_head_that_is_the_embedding_table_stays_so(tower, tmp_path, pictures):
    tied = language_folder(tmp_path / "tied", tie_word_embeddings=True)
    model, processor = from_parts(tower("clip"), tied)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    expected = logits(model, processor, pictures)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded, its_processor = load_base(str(tmp_path / "saved"))
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(logits(loaded, its_processor, pictures), expected)


def test_generation_stops_where_answers_end(tower, language, pictures):
    model, processor = from_parts(tower("clip"), language)
    tokenizer = processor.tokenizer
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)
    assert processor.chat_template == tokenizer.chat_template and tokenizer.padding_side == "left"
    said = model.generate(**ask(processor, pictures), max_new_tokens=3, do_sample=False)
    assert said.shape[1] <= ask(processor, pictures)["input_ids"].shape[1] + 3


def test_a_tokenizer_without_padding_pads_with_what_it_has(tower, tmp_path, pictures):
    tokenizer = words()
    tokenizer.pad_token = None
    folder = language_folder(tmp_path, tokenizer)
    model, processor = from_parts(tower("clip"), folder)
    assert processor.tokenizer.pad_token == "<unk>" and model.generation_config.pad_token_id == 1
    assert logits(model, processor, pictures).isfinite().all()


def test_fields_of_the_architecture_may_be_others(tower, language, pictures):
    plain, processor = from_parts(tower("clip"), language)
    config = {"vision_feature_layer": -1, "text_config": {"vocab_size": 64, "attention_dropout": 0.25}}
    model, _ = from_parts(tower("clip"), language, config=config)
    assert len(model.lm_head.weight) == 64 and model.model.language_model.config.attention_dropout == 0.25
    assert VLM.of(model).num_executed() == VLM.of(plain).num_executed() + 1
    assert not torch.equal(logits(model, processor, pictures)[..., :38], logits(plain, processor, pictures))
    told = parts_of(model.config._name_or_path).config
    assert told == config
    assert same(load_base(model.config._name_or_path)[0], model)


def test_a_whole_architecture_that_changes_nothing_is_no_part_of_the_name(tower, language):
    plain, _ = from_parts(tower("dinov2_registers"), language)
    whole = json.loads(plain.config.to_json_string(use_diff=False))
    model, _ = from_parts(tower("dinov2_registers"), language, config=whole)
    assert same(plain, model) and parts_of(model.config._name_or_path).config is None
    model, _ = from_parts(tower("dinov2_registers"), language, config={**whole, "projector_hidden_act": "relu"})
    assert parts_of(model.config._name_or_path).config == {"projector_hidden_act": "relu"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"vision_feature_layr": -1}, r"unknown entry 'vision_feature_layr'.*use one of: vision_feature_layer"),
        ({"vision_config": {"image_sise": 3}}, r"unknown entry 'image_sise'.*model\.config\.vision_config.*image_size"),
        ({"text_config": {"vocab_size": 5}}, r"vocab_size is 5: .* take 38 words; fix: leave it out, or give 38"),
        ({"text_config": {"hidden_size": 32}}, r"cannot load the language model"),
        ({"image_token_index": 4}, r"image_token_index is 4: .*these parts make it 37"),
        ({"model_type": "llava_next"}, r"model_type is 'llava_next'"),
        ({"vision_feature_select_strategy": "defalt"}, r"no such architecture: model\.config"),
    ],
)
def test_an_architecture_that_cannot_be_meant_is_refused(config, told, tower, language):
    with pytest.raises(ConfigError, match=told):
        from_parts(tower("clip"), language, config=config)


def test_a_patch_is_not_taken_for_a_class_token(tower, language):
    told = refused(tower("siglip"), language, config={"vision_feature_select_strategy": "default"})
    assert (
        "leaves out the first token, which is a patch in a SiglipVisionConfig; fix: leave it out, or write full" in told
    )


def without(folder: str, name: str, out: Path) -> str:
    """A copy of a checkpoint that lacks a tensor."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    del tensors[name]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return str(out)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_name(tower, language, tmp_path):
    told = refused(tower("clip"), without(language, "model.layers.1.mlp.up_proj.weight", tmp_path / "a"))
    assert "the language model lacks 1 tensors" in told and "model.layers.1.mlp.up_proj.weight" in told
    told = refused(tower("clip"), without(language, "lm_head.weight", tmp_path / "b"))
    assert "the language model lacks 1 tensors" in told and "lm_head.weight" in told
    told = refused(without(tower("dinov2"), "layernorm.weight", tmp_path / "c"), language)
    assert "the vision tower lacks 1 tensors" in told and "layernorm.weight" in told


def test_unknown_names_are_told(tower, language, tmp_path):
    assert "unknown projector 'mlp3'; fix: use one of: mlp2" in refused(tower("clip"), language, projector="mlp3")
    assert "cannot load the vision tower: " in refused(str(tmp_path / "nowhere"), language)
    assert "cannot load the language model: " in refused(tower("clip"), str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no plug-in 'elsewhere'"):
        from_parts("elsewhere:tower", language)


def test_a_tower_that_a_llava_cannot_carry_is_refused(language, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    PixtralVisionConfig(**sizes, image_size=28, patch_size=14, head_dim=8).save_pretrained(tmp_path / "pixtral")
    told = refused(str(tmp_path / "pixtral"), language)
    assert "'PixtralVisionConfig' cannot be the tower of a Llava" in told and "its tokens are [total dim]" in told
    ViTConfig(**sizes, image_size=28, patch_size=14).save_pretrained(tmp_path / "vit")
    told = refused(str(tmp_path / "vit"), language)
    assert "no vision tower for 'ViTConfig'" in told and "supported: CLIPVisionConfig" in told


def test_a_tower_without_an_image_processor_is_refused(tower, language, tmp_path):
    shutil.copytree(tower("clip"), tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    assert "cannot load the image processor: " in refused(str(tmp_path / "bare"), language)


def test_pictures_of_another_shape_than_the_tower_takes_are_refused(tower, language, tmp_path):
    shutil.copytree(tower("clip"), tmp_path / "free")
    CLIPImageProcessorPil(size={"shortest_edge": 28}, do_center_crop=False).save_pretrained(tmp_path / "free")
    assert "makes pictures of several shapes" in refused(str(tmp_path / "free"), language)
    shutil.copytree(tower("clip"), tmp_path / "large")
    CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}).save_pretrained(
        tmp_path / "large"
    )
    told = refused(str(tmp_path / "large"), language)
    assert "the vision tower takes no such pictures" in told and "42" in told


def test_a_language_model_that_sees_already_is_refused(tower, tmp_path):
    for part in tiny.llava():
        part.save_pretrained(tmp_path)
    told = refused(tower("clip"), str(tmp_path))
    assert "'LlavaConfig' is no language model of text alone" in told
    assert "it is a vision-language model itself; fix: name it as base:" in told
    assert "'CLIPConfig' is no language model" in refused(tower("clip"), tower("clip_whole"))


def test_a_language_model_without_its_tokenizer_is_refused(tower, language, tmp_path):
    shutil.copytree(language, tmp_path / "mute")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "mute" / name).unlink(missing_ok=True)
    told = refused(tower("clip"), str(tmp_path / "mute"))
    assert "tokenizer" in told and "fix: give a language model with its tokenizer.json" in told


def test_a_language_model_that_a_llava_would_change_is_refused(tower, tmp_path):
    sizes = {"vocab_size": len(words()), "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    more = {"intermediate_size": 64, "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": None}
    scaled = language_folder(
        tmp_path / "scaled", config=CohereConfig(**sizes, **more, eos_token_id=2, logit_scale=0.25)
    )
    told = refused(tower("clip"), scaled)
    assert "CohereForCausalLM cannot be the language model of a Llava" in told and "it scales or caps them" in told
    other = language_folder(
        tmp_path / "other", config=GPT2Config(vocab_size=len(words()), n_embd=48, n_head=4, n_layer=2, n_positions=64)
    )
    told = refused(tower("clip"), other)
    assert "GPT2LMHeadModel cannot be the language model of a Llava" in told
    assert "its GPT2Model has no 'layers' and 'norm'" in told


def test_a_name_that_lists_no_parts_is_refused(language):
    for name in ('{"vision_tower": "a"}', '{"vision_tower": "a", "language_model": "b", "sead": 1}', "{"):
        with pytest.raises(ConfigError, match="no base from parts"):
            load_base(name)
