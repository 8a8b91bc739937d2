"""What is asked of the mixtures says where it came from."""

from pathlib import Path

from results import mixtures
from yarbus.core.records import write_json
from yarbus.studies import conflict as module

RESULTS = Path(__file__).parents[2] / "results"
RECORD = {
    "drift": {"overall": {}},
    "gradients": {"overall": {}, "by_task": {}},
    "gap": {"tasks": {}},
    "advice": dict.fromkeys(("verdict", "action", "headline", "sureness", "blocks")),
}


def test_each_mixture_is_asked_about_under_its_own_name_and_this_command(tmp_path, monkeypatch):
    asked = []

    def conflict(recipe, *, folder, command=None, **options):
        asked.append((recipe.name, folder.name, command))
        folder.mkdir(parents=True)
        write_json(folder / "conflict.json", RECORD)
        return folder

    monkeypatch.setattr(module, "conflict", conflict)
    mixtures.halves(tmp_path)
    for mixture in mixtures.MIXTURES:
        mixtures.advice(mixture, tmp_path)
    names = ["read-twice", "read-and-caption", "read-and-size-1-to-7", "locate-and-lean", "read-and-lean-1-to-7"]
    assert asked == [(name, name, "python results/mixtures.py") for name in names]
