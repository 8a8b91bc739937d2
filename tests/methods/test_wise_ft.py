"""WiSE-FT: exact at both ends, the formula between them, and a refusal by name for what has no counterpart."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import yarbus
from tests.models.blends import same, tensors_of, trained, write_adapter, write_base, write_whole
from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.methods import CoVFT, LoRA
from yarbus.methods.lora import fold
from yarbus.models.interpolate import blend
from yarbus.models.load import load_base

IN_PLACE = {
    "projector": {"projector": "full"},
    "bitfit": {"vision": "bitfit"},
    "layernorm": {"vision": "layernorm"},
    "all": {"vision": "full", "projector": "full", "language": "full"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and two adapters of it."""
    folder = tmp_path_factory.mktemp("blends")
    base = write_base(folder / "base")
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(folder / name, base, seed, projector="full", vision="bitfit")
    return folder


def state(folder, base):
    return yarbus.load_adapter(*load_base(str(base)), folder)[0].state_dict()


# ---- the formula ----


@given(st.floats(0, 1), st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
@settings(max_examples=40, deadline=None)
def test_a_blend_lies_on_the_line_between_the_two(alpha, dtype):
    a, b = (torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (1, 2))
    found = blend(a, b, alpha)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert found.dtype == dtype
    expected = ((1 - alpha) * a.to(wide) + alpha * b.to(wide)).to(dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@given(st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_what_is_equal_in_both_stays_as_it_is(alpha):
    a = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(blend(a, a.clone(), alpha), a)


def test_whole_numbers_are_the_first_models_and_the_second_ones_at_1():
    a, b = torch.tensor([1, 2]), torch.tensor([3, 5])
    assert torch.equal(blend(a, b, 0.9), a) and torch.equal(blend(a, b, 0), a) and torch.equal(blend(a, b, 1), b)
    assert torch.equal(blend(a > 1, b > 9, 0.5), a > 1)


def test_a_precision_that_holds_both_loses_nothing():
    a, b = torch.randn(9).to(torch.float16), torch.randn(9).to(torch.bfloat16)
    assert torch.equal(blend(a, b, 0), a.float()) and torch.equal(blend(a, b, 1), b.float())


# ---- adapters ----


def test_adapters_of_one_base_are_exact_at_both_ends(place, tmp_path):
    for alpha, name in ((0, "a"), (1, "b")):
        folder = yarbus.interpolate(place / name, place / name, alpha, out=tmp_path / f"same{alpha}")
        assert same(tensors_of(folder), tensors_of(place / name))
        folder = yarbus.interpolate(place / "a", place / "b", alpha, out=tmp_path / f"{alpha}")
        assert same(tensors_of(folder), tensors_of(place / name))
        assert same(state(folder, place / "base"), state(place / name, place / "base"))


def test_adapters_of_one_base_are_blended_tensor_by_tensor(place, tmp_path):
    found = load_file(yarbus.interpolate(place / "a", place / "b", 0.3, out=tmp_path / "x") / "adapter.safetensors")
    a, b = tensors_of(place / "a"), tensors_of(place / "b")
    assert found.keys() == a.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.7 * a[name] + 0.3 * b[name])


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_base_and_what_was_trained_of_it_give_an_adapter(kind, place, tmp_path):
    base = str(place / "base")
    write_adapter(tmp_path / "tuned", base, 5, **IN_PLACE[kind])
    plain = load_base(base)[0].state_dict()
    for alpha, expected in ((0, plain), (1, state(tmp_path / "tuned", base))):
        folder = yarbus.interpolate(base, tmp_path / "tuned", alpha, out=tmp_path / f"x{alpha}")
        assert same(state(folder, base), expected)
        other = yarbus.interpolate(tmp_path / "tuned", base, 1 - alpha, out=tmp_path / f"y{alpha}")
        assert same(tensors_of(other), tensors_of(folder))
    half = state(yarbus.interpolate(base, tmp_path / "tuned", out=tmp_path / "half"), base)
    tuned = state(tmp_path / "tuned", base)
    for name in half:
        torch.testing.assert_close(half[name], (plain[name] + tuned[name]) / 2)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_16_bit_base_is_the_start_of_an_fp32_adapter_exactly(stored, tmp_path):
    base = write_base(tmp_path / "base", stored)
    write_adapter(tmp_path / "tuned", base, 1, projector="full")
    folder = yarbus.interpolate(base, tmp_path / "tuned", 0, out=tmp_path / "x")
    assert same(state(folder, base), load_base(base)[0].state_dict())
    low = {name: tensor.to(stored) for name, tensor in tensors_of(tmp_path / "tuned").items()}
    shutil.copytree(tmp_path / "tuned", tmp_path / "low")
    rewrite(tmp_path / "low", low)
    folder = yarbus.interpolate(base, tmp_path / "low", 0.5, out=tmp_path / "y")
    assert {tensor.dtype for tensor in tensors_of(folder).values()} == {stored}


def rewrite(folder, tensors):
    """Other tensors in an adapter, and the hash that says so."""
    from yarbus.core.records import sha256_file

    save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})
    description = json.loads((folder / "adapter.json").read_text())
    description["sha256"] = sha256_file(folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps(description))


def test_inserted_modules_are_blended_where_both_have_them(place, text_encoder, pictures, tmp_path):
    base = str(place / "base")
    options = {"vision": CoVFT(num_experts=2, context_dim=16), "text_encoder": text_encoder}
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(tmp_path / name, base, seed, **options)
    folder = yarbus.interpolate(tmp_path / "a", tmp_path / "b", out=tmp_path / "x")
    model, processor = yarbus.load_adapter(*load_base(base), folder)
    inputs = processor(images=pictures[0], text="USER: <image> what digit ? ASSISTANT:", return_tensors="pt")
    assert torch.isfinite(model(**inputs).logits).all() and (folder / "text_encoder").is_dir()


def test_low_rank_updates_are_folded_first(place, tmp_path, capsys):
    base, options = str(place / "base"), {"language": LoRA(rank=2), "projector": "full"}
    models = {}
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(tmp_path / name, base, seed, **options)
        models[name] = fold(yarbus.load_adapter(*load_base(base), tmp_path / name)[0]).state_dict()
    plain = load_base(base)[0].state_dict()
    pairs = {("a", "b"): ("a", "b"), (base, "b"): (None, "b"), ("a", base): ("a", None)}
    for number, (sides, (first, second)) in enumerate(pairs.items()):
        one, other = (models[name] if name else plain for name in (first, second))
        for alpha in (0, 0.25, 1):
            sources = (side if side == base else tmp_path / side for side in sides)
            folder = yarbus.interpolate(*sources, alpha, out=tmp_path / f"{number}-{alpha}")
            found = yarbus.load(folder)[0].state_dict()
            if alpha in (0, 1):
                assert same(found, other if alpha else one)
            for name in found:
                torch.testing.assert_close(
                    found[name], 0.75 * one[name] + 0.25 * other[name]
                ) if alpha == 0.25 else None
            assert json.loads((folder / "interpolation.json").read_text())["folded"] is True
    assert not list(tmp_path.glob(".*"))


# ---- full models ----


def test_two_full_models_in_shards_or_not_are_exact_at_both_ends(tmp_path):
    write_base(tmp_path / "a", max_shard_size="60KB")
    write_whole(tmp_path / "b", str(tmp_path / "a"), 4, language="full")
    for alpha, name in ((0, "a"), (1, "b")):
        folder = yarbus.interpolate(tmp_path / "a", tmp_path / "b", alpha, out=tmp_path / f"x{alpha}")
        assert same(tensors_of(folder), tensors_of(tmp_path / name))
        assert same(yarbus.load(folder)[0].state_dict(), yarbus.load(tmp_path / name)[0].state_dict())
    assert len(list((tmp_path / "x0").glob("*.safetensors"))) == len(list((tmp_path / "a").glob("*.safetensors")))
    half = tensors_of(yarbus.interpolate(tmp_path / "b", tmp_path / "a", out=tmp_path / "half"))
    a, b = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    for name in half:
        torch.testing.assert_close(half[name], (a[name] + b[name]) / 2)


def test_the_config_says_the_precision_that_was_written(tmp_path):
    write_base(tmp_path / "a", torch.bfloat16)
    write_whole(tmp_path / "b", str(tmp_path / "a"), 4, projector="full")  # loaded and saved in fp32
    folder = yarbus.interpolate(tmp_path / "a", tmp_path / "b", 1, out=tmp_path / "x")
    assert same(yarbus.load(folder)[0].state_dict(), yarbus.load(tmp_path / "b")[0].state_dict())


def test_full_models_with_inserted_modules_are_blended_and_load(place, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_whole(tmp_path / name, str(place / "base"), seed, vision="vpt", language=LoRA(rank=2))
    folder = yarbus.interpolate(tmp_path / "a", tmp_path / "b", 1, out=tmp_path / "x")
    expected = fold(yarbus.load(tmp_path / "b")[0]).state_dict()
    assert same(yarbus.load(folder)[0].state_dict(), expected)


def test_what_was_done_with_a_model_is_not_copied(tmp_path):
    write_base(tmp_path / "a")
    (tmp_path / "a" / "evaluation").mkdir()
    for name in ("pytorch_model.bin", "README.md", ".hidden.json"):
        (tmp_path / "a" / name).write_text("{}")
    folder = yarbus.interpolate(tmp_path / "a", tmp_path / "a", out=tmp_path / "x")
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "a").iterdir()} - {
        "evaluation",
        "pytorch_model.bin",
        "README.md",
        ".hidden.json",
    } | {"interpolation.json"}


# ---- what is recorded, and what is refused ----


def test_the_record_names_both_with_their_hashes(place, tmp_path):
    folder = yarbus.interpolate(place / "base", place / "b", 0.25, out=tmp_path / "x")
    record = json.loads((folder / "interpolation.json").read_text())
    assert record["alpha"] == 0.25 and record["folded"] is False
    assert record["a"]["name"] == str(place / "base") and record["a"]["kind"] == "model"
    assert record["b"]["sha256"] == json.loads((place / "b" / "adapter.json").read_text())["sha256"]
    assert record["b"]["base"]["fingerprint"]


def test_a_blend_can_be_blended_again(place, tmp_path):
    once = yarbus.interpolate(place / "a", place / "b", out=tmp_path / "once")
    twice = yarbus.interpolate(place / "a", once, out=tmp_path / "twice")
    a, b, found = (tensors_of(folder) for folder in (place / "a", place / "b", twice))
    for name in found:
        torch.testing.assert_close(found[name], 0.75 * a[name] + 0.25 * b[name])


@pytest.mark.parametrize("alpha", [-0.1, 1.0001, float("nan"), float("inf"), True])
def test_alpha_outside_of_0_to_1_is_refused(alpha, place, tmp_path):
    with pytest.raises(ConfigError, match="alpha"):
        yarbus.interpolate(place / "a", place / "b", alpha, out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_is_left_behind(place, tmp_path):
    for there in ("file", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "kept").write_text("mine")
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ConfigError, match="already"):
            yarbus.interpolate(place / "a", place / "b", out=tmp_path / there)
    with pytest.raises(ConfigError, match="already"):
        yarbus.interpolate(place / "a", place / "b", out=place / "a")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "kept").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_failed_blend_leaves_nothing(place, tmp_path):
    shutil.copytree(place / "b", tmp_path / "bad")
    tensors = tensors_of(place / "b")
    last = sorted(tensors)[-1]
    rewrite(tmp_path / "bad", tensors | {last: torch.full_like(tensors[last], float("nan"))})
    with pytest.raises(CheckpointError, match=f"{last}.*NaN"):
        yarbus.interpolate(place / "a", tmp_path / "bad", out=tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {"bad"}
    assert same(
        tensors_of(yarbus.interpolate(place / "a", tmp_path / "bad", 0, out=tmp_path / "x")), tensors_of(place / "a")
    )


def test_the_first_tensor_that_differs_is_named(place, tmp_path):
    base = str(place / "base")
    write_adapter(tmp_path / "fewer", base, 1, projector="full")
    with pytest.raises(MismatchError, match=r"layers\.0\.layer_norm1\.bias.*second: missing") as error:
        yarbus.interpolate(place / "a", tmp_path / "fewer", out=tmp_path / "x")
    assert error.value.exit_code == 78
    for experts in (2, 3):
        write_adapter(
            tmp_path / f"{experts}", base, 1, vision=CoVFT(num_experts=experts, context="image", context_dim=16)
        )
    with pytest.raises(MismatchError, match="first: float32.*second: float32"):
        yarbus.interpolate(tmp_path / "2", tmp_path / "3", out=tmp_path / "x")
    with pytest.raises(MismatchError, match="first: missing"):
        yarbus.interpolate(base, tmp_path / "2", out=tmp_path / "x")
    shutil.copytree(place / "b", tmp_path / "kind")
    tensors = tensors_of(place / "b")
    first = min(tensors)
    rewrite(tmp_path / "kind", tensors | {first: tensors[first].long()})
    with pytest.raises(MismatchError, match=f"{first}.*float32.*int64"):
        yarbus.interpolate(place / "a", tmp_path / "kind", out=tmp_path / "x")


def test_equal_tensors_under_another_option_are_refused(place, tmp_path):
    for name, routing in (("dense", "dense"), ("merged", "merged")):
        method = CoVFT(num_experts=2, context="image", context_dim=16, routing=routing)
        write_adapter(tmp_path / name, str(place / "base"), 1, vision=method)
    with pytest.raises(MismatchError, match=r"places\.vision\.routing.*dense.*merged"):
        yarbus.interpolate(tmp_path / "dense", tmp_path / "merged", out=tmp_path / "x")


def test_an_encoder_of_equal_weights_that_computes_otherwise_is_refused(place, text_encoder, tmp_path):
    options = {"vision": CoVFT(num_experts=2, context_dim=16), "text_encoder": text_encoder}
    write_adapter(tmp_path / "a", str(place / "base"), 1, **options)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    description = json.loads((tmp_path / "b" / "adapter.json").read_text())
    description["text_encoder"]["config"]["hidden_act"] = "relu"
    (tmp_path / "b" / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(MismatchError, match=r"text encoder\.hidden_act is not the same.*first: gelu, second: relu"):
        yarbus.interpolate(tmp_path / "a", tmp_path / "b", out=tmp_path / "x")


def test_a_place_named_frozen_is_a_place_not_named(place, tmp_path):
    write_adapter(tmp_path / "more", str(place / "base"), 3, projector="full", vision="bitfit", language="frozen")
    assert yarbus.interpolate(place / "a", tmp_path / "more", out=tmp_path / "x").is_dir()


def test_another_base_is_refused_with_both_fingerprints(place, tmp_path):
    model, processor = trained(str(place / "base"), 9, language="full")
    yarbus.save(model, processor, tmp_path / "other")
    write_adapter(tmp_path / "theirs", str(tmp_path / "other"), 1, projector="full", vision="bitfit")
    with pytest.raises(MismatchError, match="base"):
        yarbus.interpolate(place / "a", tmp_path / "theirs", out=tmp_path / "x")
    with pytest.raises(MismatchError, match="another base"):
        yarbus.interpolate(tmp_path / "other", place / "a", out=tmp_path / "x")


def test_a_damaged_adapter_and_an_unfinished_run_are_told(place, tmp_path):
    shutil.copytree(place / "b", tmp_path / "cut")
    path = tmp_path / "cut" / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256"):
        yarbus.interpolate(place / "a", tmp_path / "cut", out=tmp_path / "x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("{}")
    with pytest.raises(CheckpointError, match="not finished"):
        yarbus.interpolate(place / "a", tmp_path / "run", out=tmp_path / "x")
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ConfigError, match="neither a run"):
            yarbus.interpolate(place / "a", missing, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="no such model"):
        yarbus.interpolate(place / "a", "nobody/no-such-model", out=tmp_path / "x")


def test_an_adapter_of_a_model_without_a_name_needs_its_base_only_for_folding(place, tmp_path):
    for name in ("a", "b"):
        write_adapter(tmp_path / name, str(place / "base"), 1, language=LoRA(rank=2))
        description = json.loads((tmp_path / name / "adapter.json").read_text())
        description["base"]["name"] = ""
        (tmp_path / name / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="does not name its base"):
        yarbus.interpolate(tmp_path / "a", tmp_path / "b", out=tmp_path / "x")
    assert yarbus.interpolate(place / "base", tmp_path / "b", out=tmp_path / "x").is_dir()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda config: config.update(vision_feature_layer=-1),
            r"config\.vision_feature_layer .*first: -2, second: -1",
        ),
        (lambda config: config["text_config"].update(rms_norm_eps=0.1), r"config\.text_config\.rms_norm_eps .*0\.1"),
        (lambda config: config.update(use_cache=False, dtype="bfloat16", architectures=None, pad_token_id=7), None),
        (lambda config: config.pop("vision_feature_select_strategy"), None),  # its default
    ],
)
def test_equal_tensors_that_are_computed_with_otherwise_are_refused_by_the_first_entry(change, told, place, tmp_path):
    shutil.copytree(place / "base", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    change(config)
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    if told is None:
        assert yarbus.interpolate(place / "base", tmp_path / "other", out=tmp_path / "x").is_dir()
        return
    with pytest.raises(MismatchError, match=f"{told}.*fix: blend two that compute alike"):
        yarbus.interpolate(place / "base", tmp_path / "other", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_other_models_and_quantised_ones_are_refused(place, tmp_path):
    for name, entry in (("other", {"model_type": "llava_next"}), ("quantised", {"quantization_config": {"bits": 4}})):
        shutil.copytree(place / "base", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | entry))
    with pytest.raises(MismatchError, match="model_type"):
        yarbus.interpolate(place / "base", tmp_path / "other", out=tmp_path / "x")
    with pytest.raises(ConfigError, match="quantised"):
        yarbus.interpolate(place / "base", tmp_path / "quantised", out=tmp_path / "x")
