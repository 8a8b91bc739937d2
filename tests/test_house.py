"""The rules of the house (design.md 3, style.md 1), read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "yarbus"
STOREYS = (
    ("core",),
    ("models", "report"),
    ("data", "methods"),
    ("training", "evaluation", "analysis"),
    ("studies", "tinyworld"),
    ("recipes",),
    ("cli", "web"),
)
FLOORS = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}
FILES = sorted(HOUSE.rglob("*.py"))
ROOMS = sorted(path.name for path in HOUSE.iterdir() if path.is_dir() and (path / "__init__.py").exists())
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in FILES}
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
WITHOUT_TORCH = ("core", "report", "cli", "web")


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def room_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(tree: ast.AST) -> list[str]:
    """Every module that a file imports, wherever in it; ``from a import b`` counts as ``a`` and ``a.b``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def table_entries(tree: ast.AST) -> list[str]:
    """Modules that a table or a plug-in names as ``"module:attribute"``."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [text.partition(":")[0] for text in texts if text.startswith("yarbus.") and text.count(":") == 1]


def rooms_in(modules: list[str]) -> set[str]:
    rooms = {module.split(".")[1] for module in modules if module.startswith("yarbus.")}
    return rooms & set(FLOORS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_stands_on_a_floor_and_has_a_sign_on_its_door(room):
    assert room in FLOORS
    sign = ast.get_docstring(TREES[HOUSE / room / "__init__.py"])
    assert sign is not None and len(sign.splitlines()) >= 3, "say what belongs here, what does not, one example"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downstairs_and_never_to_a_neighbour(path):
    room = room_of(path)
    if not room:  # the package's own face shows what is in the rooms
        return
    above = {
        other
        for other in rooms_in(imported(TREES[path]) + table_entries(TREES[path]))
        if other != room and FLOORS[other] >= FLOORS[room]
    }
    assert not above, f"{room} (floor {FLOORS[room]}) imports {above}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_reads_or_writes_a_pickle(path):
    modules = {module.split(".")[0] for module in imported(TREES[path])}
    assert not modules & PICKLES
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("load", "save"):
            owner = node.func.value
            assert not (isinstance(owner, ast.Name) and owner.id == "torch"), f"torch.{node.func.attr} is a pickle"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_foreign_code_is_never_trusted_and_torchvision_never_imported(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            assert "trust_remote_code" not in keys
    assert "torchvision" not in {module.split(".")[0] for module in imported(TREES[path])}


def _modules_without_torch() -> list[str]:
    paths = [path for path in FILES if room_of(path) in WITHOUT_TORCH]
    names = (".".join(path.relative_to(HOUSE.parent).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_words_pages_and_the_command_line_do_not_import_torch():
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    result = subprocess.run([sys.executable, "-c", program, *_modules_without_torch()], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_does_not_import_torch():
    program = "import sys, yarbus; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_room_is_called_after_nothing(path):
    assert not {"utils", "common", "helpers", "misc"} & set(path.relative_to(HOUSE).with_suffix("").parts)
