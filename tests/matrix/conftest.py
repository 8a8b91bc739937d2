"""Which cells a check gets, and the record of a run for one model."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.matrix.cells import BASE_CANNOT, Cell, chosen, refusal

HOLDS = "holds"


def pytest_addoption(parser):
    parser.addoption("--matrix", metavar="MODEL", help="check every method on this small model")
    parser.addoption("--matrix-record", type=Path, metavar="FILE", help="write what held to this file")


def pytest_configure(config):
    target = config.getoption("--matrix-record", default=None)
    if target is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(target))


def pytest_generate_tests(metafunc):
    model = metafunc.config.getoption("--matrix", default=None)
    if "cell" in metafunc.fixturenames:
        scope, only = (metafunc.definition.get_closest_marker(name) for name in ("scope", "only"))
        fit = (cell for cell in chosen(model, scope.kwargs if scope else {}) if only is None or only.args[0](cell))
        metafunc.parametrize("cell", [cell for cell in fit if refusal(cell) is None], ids=str)
    if "small_model" in metafunc.fixturenames:
        metafunc.parametrize("small_model", [model] if model else list(tiny.EVERY))


def pytest_collection_modifyitems(items):
    """What a report needs to know travels with it, from worker processes as well."""
    for item in items:
        cell = getattr(getattr(item, "callspec", None), "params", {}).get("cell")
        if isinstance(cell, Cell):  # else no cell fits, and pytest skips it
            item.user_properties.append(("cell", (cell.case, item.originalname)))


class Recorder:
    """Keeps the outcome of each check of each case: the worst one where a check has several forms."""

    def __init__(self, target: Path):
        self.target, self.found = target, defaultdict(dict)

    def pytest_runtest_logreport(self, report):
        told = dict(report.user_properties).get("cell")
        if told is None or (report.passed and report.when != "call"):
            return
        case, check = told
        before, now = self.found[case].get(check), outcome(report)
        self.found[case][check] = now if before in (None, HOLDS) or now.startswith("fails") else before

    def pytest_sessionfinish(self):
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps({"cases": self.found}, indent=1))


def outcome(report) -> str:
    """``holds``, ``base cannot: ...`` or ``fails: ...``."""
    if report.passed:
        return HOLDS
    if report.skipped:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        return reason if reason.startswith(BASE_CANNOT) else f"skipped: {reason}"
    lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    return f"fails: {lines[0][1:].strip() if lines else report.when}"


@pytest.fixture
def sizes(pictures) -> list[Image.Image]:
    """A small picture, a large one, a broad one, a high one; then four more."""
    shapes = [(28, 28), (56, 56), (56, 28), (28, 56)]
    return [picture.resize(shapes[number % 4]) for number, picture in enumerate(pictures)]
