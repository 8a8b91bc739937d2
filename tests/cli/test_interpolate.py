"""``yarbus interpolate`` on the command line."""

import json

import pytest

from tests.models.blends import write_adapter, write_base
from tests.studies.mixtures import rows_of, write_mixture
from yarbus.cli.app import run
from yarbus.cli.interpolate import alphas_of
from yarbus.core.errors import ConfigError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_mixture(folder / "data")
    (folder / "data" / "pictures" / "classify.json").write_text(json.dumps(rows_of("colour", 4)))
    base = write_base(folder / "base")
    write_adapter(folder / "tuned", base, 1, projector="full")
    write_adapter(folder / "other", base, 1, vision="bitfit")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:1:0.5", [0, 0.5, 1]), ("0,0.3", [0, 0.3]), ("0.2:0.4:0.1", [0.2, 0.3, 0.4]), ("1", [1]), ("0:1:0.1", None)],
)
def test_alphas_are_a_range_or_a_list(text, expected):
    expected = [tenth / 10 for tenth in range(11)] if expected is None else expected
    assert alphas_of(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0.09:1:0.07", "0:1:0.1", "0.3:0.9:0.2"])
def test_a_range_ends_at_the_stop_as_it_was_written(text):
    assert alphas_of(text)[-1] == float(text.split(":")[1])


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:0", "0:1:-0.1", "1:0:0.1", "0:1:0.3", "0:1:nan", "0:inf:1", "0:1:1e-9"]
)
def test_what_is_neither_is_told(text):
    with pytest.raises(ConfigError, match="alphas are"):
        alphas_of(text)


def test_one_blend_is_written_and_can_be_evaluated(place, tmp_path, capsys):
    out = tmp_path / "half"
    assert run(["interpolate", str(place / "base"), str(place / "tuned"), "--out", str(out)]) == 0
    assert "adapter in" in capsys.readouterr().out
    questions = f"file:{place / 'data' / 'pictures' / 'classify.json'}"
    assert run(["evaluate", str(out), "--benchmarks", questions, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[questions]["num_replies"] == 4
    assert run(["interpolate", str(place / "base"), str(place / "tuned"), "--out", str(out)]) == 2
    assert "already" in capsys.readouterr().err


def test_a_sweep_prints_its_scores_and_its_record(place, tmp_path, capsys):
    questions = f"file:{place / 'data' / 'pictures' / 'classify.json'}"
    words = ["interpolate", str(place / "base"), str(place / "tuned"), "--alphas", "0,1", "--benchmarks", questions,
             "--out", str(tmp_path / "x")]  # fmt: skip
    assert run(words) == 0
    found = capsys.readouterr()
    assert "Report:" in found.out and "alpha 1 (2 of 2)" in found.err
    assert run([*words, "--json"]) == 0
    assert [point["alpha"] for point in json.loads(capsys.readouterr().out)["points"]] == [0, 1]
    assert run(["report", str(tmp_path / "x"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == ["x at 0", "x at 1"]


def test_the_first_difference_has_the_exit_code_78(place, tmp_path, capsys):
    words = ["interpolate", str(place / "tuned"), str(place / "other"), "--out", str(tmp_path / "x")]
    assert run(words) == 78
    assert "tensor 'model." in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--alpha", "1.5"], "alpha is 1.5"),
        (["--alpha", "0.5", "--alphas", "0,1"], "both given"),
        (["--benchmarks", "a"], "without --alphas"),
        (["--alphas", "0:1"], "alphas are"),
        (["--alphas", "0,1", "--benchmarks", "no/such"], "no/such"),
    ],
)
def test_wrong_usage_is_told_at_once(words, what, place, tmp_path, capsys):
    assert run(["interpolate", str(place / "base"), str(place / "tuned"), *words, "--out", str(tmp_path / "x")]) == 2
    assert what in capsys.readouterr().err and not list(tmp_path.iterdir())
