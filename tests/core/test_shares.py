import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.core.errors import ConfigError
from yarbus.core.recipe import load_recipe, stage_hash
from yarbus.core.shares import check_shares, shared_places

ENTRY = {"source": "llava", "path": "train.json"}


def recipe(*data, batch=64):
    stage = {"train": {"projector": "full"}, "data": list(data), "learning_rate": {"projector": 1e-3}, "batch": batch}
    return {"model": {"base": "x"}, "stages": {"instruct": stage}}


@given(batch=st.integers(2, 512), places=st.integers(1, 511))
def test_a_share_of_whole_rows_is_that_many_even_when_it_is_printed_with_six_digits(batch, places):
    if places < batch:
        assert shared_places(batch, places / batch) == places
        assert shared_places(batch, float(f"{places / batch:.6g}")) == places


@given(batch=st.integers(1, 300), share=st.floats(1e-4, 0.9999))
def test_every_refusal_names_a_share_or_a_batch_that_is_accepted(batch, share):
    try:
        check_shares([share, None], batch)
    except ValueError as error:
        fix = str(error).partition("; fix: ")[2]
        assert fix
        for option in fix.removeprefix("use ").split(" or "):
            kind, _, rest = option.partition(" ")
            if kind == "share":
                check_shares([float(rest.partition(" ")[0]), None], batch)
            elif kind == "batch":
                check_shares([share, None], int(rest))


@pytest.mark.parametrize(
    ("shares", "batch", "message"),
    [
        ([0.125], 60, r"share 0.125 of batch 60 is 7.5 rows.*; fix: use share 0.116667 \(7 of 60 rows\) or share "
         r"0.133333 \(8 of 60 rows\) or batch 64"),
        ([0.125], 4, r"0.5 rows.*; fix: use share 0.25 \(1 of 4 rows\) or batch 8"),
        ([0.5, 0.5], 64, r"shares 0.5 \+ 0.5 leave no row of a batch to the other entries"),
        ([0.5, 0.75], 64, "make their sum less than 1"),
    ],
)  # fmt: skip
def test_shares_that_cannot_fill_a_batch_are_refused_with_what_can(shares, batch, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe(ENTRY, *({**ENTRY, "share": share} for share in shares), batch=batch))


def test_somebody_has_to_fill_the_rest_of_a_batch():
    with pytest.raises(ConfigError, match="every data entry has a share.*; fix: leave out one share"):
        load_recipe(recipe({**ENTRY, "share": 0.5}))
    for share in (0, 1, 1.5, -0.1, float("nan"), "1/8"):
        with pytest.raises(ConfigError, match=r"data\.1\.share"):
            load_recipe(recipe(ENTRY, {**ENTRY, "share": share}))


def test_keys_of_an_entry_that_are_not_said_are_not_written_so_that_older_hashes_stand():
    plain = load_recipe(recipe(ENTRY))
    (data,) = plain.resolved()["stages"]["instruct"]["data"]
    assert set(data) == {"source", "path", "images", "task", "fraction"}
    shared = load_recipe(recipe(ENTRY, {**ENTRY, "share": 0.125, "names": "n.json"}))
    assert shared.resolved()["stages"]["instruct"]["data"][1]["share"] == 0.125
    assert load_recipe(shared.resolved()) == shared
    other = load_recipe(recipe(ENTRY, {**ENTRY, "share": 0.25, "names": "n.json"}))
    assert stage_hash(shared, "instruct") != stage_hash(other, "instruct")


def test_the_hash_of_a_stage_without_shares_is_the_one_it_had_before_there_were_any():
    assert stage_hash(load_recipe(recipe(ENTRY)), "instruct") == "61b1c8818cc1"
