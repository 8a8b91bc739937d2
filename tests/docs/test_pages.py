"""What the documentation says is true: code runs, commands parse, recipes load, links lead somewhere."""

import importlib.util
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs.pages import PAGES, ROOT, anchors, blocks, commands, links, name_of, pages_with
from yarbus.cli.app import application
from yarbus.core.recipe import load_recipe
from yarbus.evaluation.benchmark import BENCHMARKS
from yarbus.methods import METHODS
from yarbus.models.vlm import FAMILIES, TOWERS

DRAWERS = ("tutorials", "how-to", "reference", "explanation")
SHRINK = (
    (re.compile(r"\bsteps: \d+"), "steps: 1"),
    (re.compile(r"\bbatch: \d+"), "batch: 2"),
    (re.compile(r"\bshare: [\d.]+"), "share: 0.5"),
)
"""Recipes are printed at a size that makes sense and run at this one."""


def write_recipes(page: Path, folder: Path, *, small: bool) -> list[str]:
    """Writes the page's named recipes and returns their names."""
    names = []
    for block in blocks(page, "yaml"):
        assert block.file is not None, f"{name_of(page)}:{block.line}: begin a recipe with '# NAME.yaml'"
        text = block.text
        for pattern, value in SHRINK if small else ():
            text = pattern.sub(value, text)
        (folder / block.file).write_text(text)
        names.append(block.file)
    return names


def _no_network(*args: object) -> None:
    raise AssertionError("a page reaches for the network")


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Path:
    """A copy of the folder in which pages run, as the current one."""
    folder = shutil.copytree(world, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    for table in (FAMILIES, TOWERS, BENCHMARKS, *METHODS.values()):  # a page may declare its own
        monkeypatch.setattr(table, "_own", dict(table._entries))
    return folder


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, place):
    write_recipes(page, place, small=True)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        source = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
        exec(compile(source, name_of(page), "exec"), namespace)
    for name, value in namespace.items():
        if name.startswith("test_") and callable(value):
            value()


@pytest.mark.parametrize("page", pages_with("yaml"), ids=name_of)
def test_a_printed_recipe_loads(page, place):
    for name in write_recipes(page, place, small=False):
        load_recipe(place / name)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, "yarbus")], ids=name_of)
def test_a_printed_command_line_is_one_that_the_program_takes(page, place):
    write_recipes(page, place, small=False)
    group: Any = typer.main.get_command(application())
    for verb, *arguments in commands(page, "yarbus"):
        if verb.startswith("-"):
            continue
        assert verb in group.commands, f"{name_of(page)}: no verb '{verb}'"
        if arguments == ["--help"]:
            continue
        context = group.commands[verb].make_context(verb, list(arguments))
        if "overrides" in context.params:
            load_recipe(context.params["recipe"], context.params["overrides"] or [])


def test_the_entries_printed_for_contributors_are_those_of_the_package():
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "CONTRIBUTING.md", "python"):
        if block.text.startswith("# yarbus/models/"):
            exec(block.text, namespace)
    assert namespace["CLIP"] == TOWERS["CLIPVisionConfig"]
    assert namespace["LLAVA"] == FAMILIES["LlavaConfig"]


def test_every_pain_that_is_listed_names_a_test_and_every_test_is_listed():
    page = (ROOT / "docs" / "how-to" / "user-pains.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    named = [re.findall(r"`(test_\w+)`", row.split("|")[3]) for row in rows]
    tests = re.findall(r"^def (test_\w+)", (ROOT / "tests" / "test_pains.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows and all(named)
    assert sorted(name for names in named for name in names) == sorted(tests)


def test_printed_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for arguments in commands(page, "make"):
            assert set(arguments) <= targets, name_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_a_page_and_a_heading_that_exist(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name_of(page)}: no {target}"
        if anchor:
            assert anchor in anchors(found), f"{name_of(page)}: no heading for {target}"


@pytest.mark.parametrize("drawer", DRAWERS)
def test_every_page_of_a_drawer_is_named_in_its_index(drawer):
    folder = ROOT / "docs" / drawer
    others = {path.name for path in folder.glob("*.md")} - {"index.md"}
    assert others and others == set(links(folder / "index.md")) & others


def test_the_reference_is_what_the_code_says_now():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "reference" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    folder = ROOT / "docs" / "reference"
    made = generate.pages()
    assert set(made) == {path.name for path in folder.glob("*.md")} - {"index.md"}
    for name, text in made.items():
        assert (folder / name).read_text(encoding="utf-8") == text, (
            f"docs/reference/{name} is stale: run .venv/bin/python docs/reference/generate.py"
        )
