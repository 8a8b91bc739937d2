import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.core.errors import ConfigError
from yarbus.core.places import GROUPS, PLACES
from yarbus.core.recipe import Recipe, load_recipe, stage_hash, variant, write_recipe

BASE = """\
model: {base: tiny}
question: {text_encoder: bert}
stages:
  align:
    train: {projector: full}
    data: [{source: llava, path: a.json}]
    learning_rate: {projector: 1.0e-3}
    batch: 8
  instruct:
    train:
      vision: {method: covft, num_experts: 8}
      language: full
    data:
      - {source: llava, path: a.json}
      - {source: llava, path: b.json, images: pictures, fraction: 0.5}
    learning_rate: {vision: 2.0e-5, language: 2.0e-5}
    batch: 8
    steps: 20
compare:
  variants:
    frozen: {stages.instruct.train.vision: frozen}
    merged: {stages.instruct.train.vision.routing: merged}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path / "base.yaml"


def extend(base: Path, text: str, name: str = "child.yaml") -> Path:
    (base.parent / name).write_text(f"extends: base.yaml\n{text}")
    return base.parent / name


def refused(source, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(source, list(overrides))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_defaults_are_spelled_out(base):
    recipe = load_recipe(base)
    align = recipe.stages["align"]
    assert (align.steps, align.epochs, align.schedule, align.max_grad_norm) == (None, 1.0, "cosine", 1.0)
    assert align.train == {"projector": {"method": "full"}}
    assert recipe.stages["instruct"].epochs is None
    assert recipe.name == "base"
    assert list(recipe.stages) == ["align", "instruct"]


def test_a_resolved_recipe_is_the_same_recipe(base, tmp_path):
    recipe = load_recipe(base, ["seed=3"])
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    assert load_recipe(recipe.resolved()) == recipe


def test_the_same_method_merges_and_another_replaces(base):
    def vision(text):
        return (
            load_recipe(extend(base, f"stages: {{instruct: {{train: {{vision: {text}}}}}}}")).stages["instruct"].train
        )

    assert vision("{method: covft, top_k: 2}")["vision"] == {"method": "covft", "num_experts": 8, "top_k": 2}
    assert vision("covft")["vision"] == {"method": "covft", "num_experts": 8}
    assert vision("{num_experts: 1}")["vision"] == {"method": "covft", "num_experts": 1}
    assert vision("{method: lora, rank: 4}")["vision"] == {"method": "lora", "rank": 4}
    assert vision("full")["vision"] == {"method": "full"}
    assert vision("full")["language"] == {"method": "full"}


def test_a_list_replaces_a_list(base):
    child = load_recipe(extend(base, "stages: {instruct: {data: [{source: llava, path: c.json}]}}"))
    assert [entry.path for entry in child.stages["instruct"].data] == ["c.json"]


def test_steps_of_an_upper_layer_replace_epochs_of_a_lower_one_and_the_reverse(base):
    assert load_recipe(base, ["stages.align.steps=7"]).stages["align"].epochs is None
    instruct = load_recipe(base, ["stages.instruct.epochs=0.5"]).stages["instruct"]
    assert (instruct.steps, instruct.epochs) == (None, 0.5)


def test_overrides_reach_any_depth(base):
    recipe = load_recipe(
        base,
        [
            "stages.instruct.train.vision.num_experts=2",
            "stages.instruct.data.1.path=c.json",
            "stages.instruct.learning_rate={router: 1.0e-4}",
            "evaluation=[mmvp, tinyworld/read]",
            "seed=5",
        ],
    )
    instruct = recipe.stages["instruct"]
    assert instruct.train["vision"]["num_experts"] == 2
    assert [entry.path for entry in instruct.data] == ["a.json", "c.json"]
    assert instruct.data[1].images == "pictures"
    assert instruct.learning_rate == {"vision": 2e-5, "language": 2e-5, "router": 1e-4}
    assert (recipe.evaluation, recipe.seed) == (["mmvp", "tinyworld/read"], 5)
    assert load_recipe(base, {"seed": 5}).seed == 5


def test_a_variant_is_the_recipe_but_for_its_differences(base):
    recipe = load_recipe(base)
    frozen, merged = variant(recipe, "frozen"), variant(recipe, "merged")
    assert frozen.stages["instruct"].train["vision"] == {"method": "frozen"}
    assert merged.stages["instruct"].train["vision"] == {"method": "covft", "num_experts": 8, "routing": "merged"}
    assert frozen.compare is None
    assert frozen.stages["align"] == recipe.stages["align"]
    with pytest.raises(ConfigError, match="use one of: merged"):
        variant(recipe, "mergd")


def test_a_stage_hash_covers_what_determines_its_weights(base):
    recipe = load_recipe(base)
    same = ["stages.align.log_every=1", "stages.align.num_workers=2", "stages.instruct.batch=16", "name=x"]
    same += ["record.routing.every=5", "record={vision_gradient: {every: 1}}"]
    same += ["question.text_cache=kept", "question={text_cache: kept, text_cache_mib: 5}"]
    other = ["seed=1", "stages.align.batch=16", "model.base=other", "question.train_turns=all_human"]
    for change in same:
        assert stage_hash(load_recipe(base, [change]), "align") == stage_hash(recipe, "align"), change
    for change in other:
        assert stage_hash(load_recipe(base, [change]), "align") != stage_hash(recipe, "align"), change
    assert stage_hash(load_recipe(base, ["stages.align.batch=16"]), "instruct") != stage_hash(recipe, "instruct")
    assert stage_hash(variant(recipe, "frozen"), "align") == stage_hash(recipe, "align")


def test_hashes_of_recipes_older_than_fractions_and_groups_rates_stay_what_they_were(base):
    recipe = load_recipe(base)  # 3a87bb64bbfd and 4d595393a022 are those of commit 0b29525
    assert (stage_hash(recipe, "align"), stage_hash(recipe, "instruct")) == ("3a87bb64bbfd", "4d595393a022")
    assert stage_hash(load_recipe(base, ["stages.align.fraction=1.0"]), "align") == "3a87bb64bbfd"
    assert stage_hash(load_recipe(base, ["stages.align.fraction=0.5"]), "align") != "3a87bb64bbfd"
    decayed = ["stages.instruct.learning_rate.vision.block_decay=0.9"]
    assert stage_hash(load_recipe(base, decayed), "instruct") != "4d595393a022"


def test_a_text_cache_that_is_not_named_is_not_written_into_a_resolved_recipe(base):
    plain, kept = load_recipe(base), load_recipe(base, ["question.text_cache=kept"])
    said = {"text_encoder", "train_turns", "chat_turns", "rules", "max_tokens"}
    assert set(plain.resolved()["question"]) == said
    assert set(kept.resolved()["question"]) == {*said, "text_cache"}
    assert kept.question.text_cache_mib == 20_000 and load_recipe(kept.resolved()) == kept
    limited = load_recipe(base, ["question.text_cache=kept", "question.text_cache_mib=5"])
    assert load_recipe(limited.resolved()) == limited
    assert "text_cache_mib" in refused(base, "question.text_cache_mib=0")


def test_a_plain_rate_stays_a_plain_number_and_a_mapping_is_spelled_out(base):
    rate = "stages.instruct.learning_rate"
    assert load_recipe(base).resolved()["stages"]["instruct"]["learning_rate"] == {"vision": 2e-5, "language": 2e-5}
    recipe = load_recipe(base, [f"{rate}.vision={{peak: 1.0e-4, schedule: constant}}"])
    assert recipe.resolved()["stages"]["instruct"]["learning_rate"] == {
        "vision": {
            "peak": 1e-4,
            "warmup_fraction": None,
            "schedule": "constant",
            "block_decay": 1.0,
            "frozen_fraction": 0.0,
        },
        "language": 2e-5,
    }
    assert load_recipe(recipe.resolved()) == recipe


def test_what_a_rate_does_not_say_is_the_stages(base):
    vision = "{peak: 1.0e-4, schedule: constant, block_decay: 0.9}"
    changes = [f"stages.instruct.learning_rate.vision={vision}", "stages.instruct.warmup_fraction=0.1"]
    stage = load_recipe(base, changes).stages["instruct"]
    assert stage.peaks == {"vision": 1e-4, "language": 2e-5}
    told = {group: (rate.warmup_fraction, rate.schedule, rate.block_decay) for group, rate in stage.rates.items()}
    assert told == {"vision": (0.1, "constant", 0.9), "language": (0.1, "cosine", 1.0)}
    own = load_recipe(base, ["stages.instruct.learning_rate.vision={peak: 1.0e-4, warmup_fraction: 0.0}"])
    assert own.stages["instruct"].rates["vision"].warmup_fraction == 0


def test_a_number_and_a_mapping_of_one_rate_merge_in_either_order(base):
    def vision(*changes):
        paths = [f"stages.instruct.learning_rate.vision{change}" for change in changes]
        return load_recipe(base, paths).resolved()["stages"]["instruct"]["learning_rate"]["vision"]

    assert vision("=1.0e-4") == 1e-4
    assert vision(".peak=1.0e-4")["peak"] == 1e-4
    decayed = {"peak": 2e-5, "warmup_fraction": None, "schedule": None, "block_decay": 0.9, "frozen_fraction": 0.0}
    assert vision(".block_decay=0.9") == vision("={block_decay: 0.9}") == decayed
    assert vision(".block_decay=0.9", "=1.0e-4") == vision("=1.0e-4", ".block_decay=0.9") == decayed | {"peak": 1e-4}
    child = extend(base, "stages: {instruct: {learning_rate: {vision: {block_decay: 0.9}}}}")
    assert load_recipe(child).stages["instruct"].rates["vision"].peak == 2e-5


def test_a_fraction_of_a_stage_shrinks_its_steps_and_every_data_entry(base):
    stage = load_recipe(base, ["stages.instruct.fraction=0.25"]).stages["instruct"]
    assert stage.num_steps == 5 and stage.steps == 20
    assert [entry.fraction for entry in stage.used_data] == [0.25, 0.125]
    assert load_recipe(base).stages["instruct"].used_data == load_recipe(base).stages["instruct"].data
    assert load_recipe(base, ["stages.instruct.fraction=0.001"]).stages["instruct"].num_steps == 1
    assert load_recipe(base, ["stages.align.fraction=0.5"]).stages["align"].num_steps is None  # epochs decide


def test_nothing_is_recorded_unless_asked_and_what_is_asked_is_spelled_out(base):
    assert load_recipe(base).resolved()["record"] == {"vision_gradient": None, "routing": None}
    asked = load_recipe(base, ["record.vision_gradient.every=5", "record.routing={every: 10}"])
    assert asked.resolved()["record"] == {
        "vision_gradient": {"every": 5, "dim": 65536},
        "routing": {"every": 10, "samples": 64},
    }
    again = load_recipe(load_recipe(base).resolved(), ["record.routing.every=7"])
    assert again.record.routing is not None and again.record.routing.every == 7
    assert load_recipe(asked.resolved(), ["record.routing=null"]).record.routing is None


def test_unknown_keys_at_any_depth_name_file_line_and_neighbour(base):
    text = "modle: {base: x}\nstages:\n  align: {batc: 3}\n  instruct: {train: {visoin: full}}\n"
    message = refused(extend(base, text))
    assert "(and 2 more" in message
    assert all(f"child.yaml:{line}" in message for line in (2, 4, 5))
    assert "use one of: model" in message
    assert "use one of: batch" in refused(extend(base, "stages:\n  align: {batc: 3}"))
    assert "use one of: vision" in refused(extend(base, "stages: {align: {learning_rate: {visoin: 1.0e-3}}}"))
    assert "use one of: fraction" in refused(base, "stages.align.data.0.fractoin=1")
    assert "use one of: text_encoder" in refused(base, "question.text_encodr=x")


def test_an_inherited_fault_names_the_file_that_holds_it(base):
    base.write_text(BASE.replace("batch: 8\n    steps", "bach: 8\n    steps"))
    assert "base.yaml:17" in refused(extend(base, "seed: 1"))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("stages.align.batch=0", "greater than or equal to 1"),
        ("stages.align.batch=8.0", "8.0 (float)"),
        ("stages.align.batch='8'", "'8' (str)"),
        ("stages.align.steps=0", "greater than or equal to 1"),
        ("stages.align.learning_rate.projector=-1", "greater than 0"),
        ("stages.align.learning_rate.projector=1e-4", "write 1.0e-4"),
        ("stages.align.learning_rate.projector=.nan", "finite"),
        ("stages.align.learning_rate.projector=true", "a valid number"),
        ("stages.align.learning_rate.projector={schedule: constant}", ""),
        (
            "stages.align.learning_rate.router={schedule: constant}",
            "missing key 'stages.align.learning_rate.router.peak'",
        ),
        ("stages.align.learning_rate.projector.peak=-1", "learning_rate.projector.peak is -1"),
        ("stages.align.learning_rate.projector.block_decay=1.5", "less than or equal to 1"),
        ("stages.align.learning_rate.projector.block_decay=0", "greater than 0"),
        ("stages.align.learning_rate.projector.schedule=cosin", "use one of: cosine, linear, constant"),
        ("stages.align.learning_rate.projector={peak: 1.0e-3, warmup: 0.1}", "use one of: warmup_fraction"),
        ("stages.align.fraction=0", "greater than 0"),
        ("stages.align.fraction=1.5", "less than or equal to 1"),
        ("stages.align.data.0.fraction=1.5", "less than or equal to 1"),
        ("stages.align.data.2.fraction=1", "use a number from 0 to 0"),
        ("stages.align.schedule=cosin", "use one of: cosine, linear, constant"),
        ("stages.align.precision=no", "YAML reads yes, no, on and off"),
        ("stages.align.micro_batch=3", "batch 8 is no multiple of micro_batch 3"),
        ("stages.align={steps: 3, epochs: 1}", "steps 3 and epochs 1.0 are both given"),
        ("stages.new={train: {}, data: [], learning_rate: {}, batch: 1}", "at least 1"),
        ("stages.align.train.projector={rank: 3}", ""),
        ("stages.align.train.vision={rank: 3}", "no method named"),
        ("stages.a/b={}", "cannot be a name"),
        ("stages={}", ""),
        ("question.train_turns=expand_turns", "use one of: sampled_turn, all_human"),
        ("seed=-1", "greater than or equal to 0"),
        ("record.vision_gradient.every=0", "greater than or equal to 1"),
        ("record.vision_gradient={every: 1, dim: 100000000}", "less than or equal to 10000000"),
        ("record.vision_gradient={}", "missing key 'record.vision_gradient.every'"),
        ("record.vision_gradient=true", "a valid mapping"),
        ("record.vision_gradients={every: 1}", "use one of: vision_gradient"),
        ("record.routing={every: 5, samples: 0}", "greater than or equal to 1"),
        ("record.routing={every: 5, sample: 8}", "use one of: samples"),
        ("seed=08", "'08' (str)"),
        ("model=null", "a valid mapping"),
        ("compare.variants.bad={stages.instruct.bach: 1}", "variant 'bad': unknown key 'stages.instruct.bach'"),
        ("seed", "write key=value"),
        ("a..b=1", "dotted path"),
        ("=1", "dotted path"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(base, override, reason):
    if reason:
        assert reason in refused(base, override)
    else:
        load_recipe(base, [override])


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("stages:\n  align:\n    batch: 3\n")
    message = refused(tmp_path / "a.yaml")
    assert "missing key 'model'" in message and "and 3 more" in message and "a.yaml:2" in message


def test_extending_in_a_circle_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    assert "a.yaml -> b.yaml -> a.yaml" in refused(tmp_path / "a.yaml")


def test_an_unknown_recipe_names_the_nearest(base):
    assert "use a file, or one of: covft-llava-1.5-7b" in refused("covft-llava")
    assert "child.yaml:1" in (message := refused(_child_of(base, "covft-lava-1.5-7b"))) and "covft-llava" in message
    assert "no such file" in refused("nowhere/recipe.yaml")


def _child_of(base: Path, parent: str) -> Path:
    (base.parent / "child.yaml").write_text(f"extends: {parent}\n")
    return base.parent / "child.yaml"


@pytest.mark.parametrize("text", ["", "- a", "3", "extends: 3", "extends: [a]", "null"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert "a.yaml" in refused(tmp_path / "a.yaml")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["full", "covft", "llava", "", "x.json"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["method", "path", "source", "batch", "vision", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *("model", "question", "stages", "evaluation", "compare", "seed", "seed.x", "name"),
        *("stages.new", "stages.align", "stages.align.train", "stages.align.train.projector", "stages.align.data"),
        *("stages.align.data.0", "stages.align.learning_rate", "stages.instruct.train.vision.routing"),
        *("stages.align.learning_rate.projector", "stages.align.learning_rate.projector.block_decay"),
        *("compare.variants", "compare.variants.frozen", "record", "record.routing", "record.vision_gradient"),
    ]
)


@given(st.dictionaries(PATHS, TREES, max_size=3))
def test_any_override_gives_a_recipe_or_one_message(overrides):
    from yarbus.core.yaml import parse_yaml

    try:
        recipe = load_recipe(parse_yaml(BASE, "base").value, overrides)
    except ConfigError as error:
        assert len(str(error).splitlines()) <= 3
    else:
        assert load_recipe(recipe.resolved()) == recipe


def test_places_and_groups_are_the_words_of_the_design():
    assert PLACES == ("vision", "projector", "language", "head")
    assert GROUPS == ("vision", "vision_new", "router", "projector", "language", "head")


def test_a_recipe_cannot_be_changed(base):
    recipe: Recipe = load_recipe(base)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_reading_a_recipe_does_not_import_torch(base):
    program = "import sys; from yarbus.core.recipe import load_recipe; load_recipe(sys.argv[1])"
    program += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(base)], check=True)


@pytest.mark.parametrize("name", ["my recipe.yaml", "réglage.yaml", "_draft.yaml"])
def test_a_file_whose_name_cannot_name_a_run_is_a_recipe_without_a_name(base, name):
    assert load_recipe(extend(base, "seed: 1\n", name)).name is None


def test_a_name_that_is_written_must_be_one(base):
    assert "name" in refused(extend(base, "name: my recipe\n"))


def test_null_takes_out_a_variant_that_the_recipe_below_brings(tmp_path):
    (tmp_path / "above.yaml").write_text("extends: tinyworld\ncompare: {variants: {covft-dense: null, full: null}}\n")
    assert list(load_recipe(tmp_path / "above.yaml").compare.variants) == ["frozen", "covft-merged"]
    (tmp_path / "none.yaml").write_text(
        "extends: tinyworld\ncompare: {variants: {frozen: null, full: null, covft-dense: null, covft-merged: null}}\n"
    )
    with pytest.raises(ConfigError, match="variants"):
        load_recipe(tmp_path / "none.yaml")
