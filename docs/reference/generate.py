"""Writes the reference pages from docstrings and tables: ``.venv/bin/python docs/reference/generate.py``.

A test compares the pages with what this makes, so nothing here depends on the day or the machine.
"""

import ast
import dataclasses
import enum
import importlib
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import BaseModel
from typer.models import OptionInfo

import yarbus
from yarbus.cli.app import VERBS, application
from yarbus.core import errors, recipe, sections
from yarbus.core.places import GROUPS, PLACES
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_record
from yarbus.methods import METHODS
from yarbus.models.question import Question
from yarbus.models.tested import tested
from yarbus.models.vlm import FAMILIES, TOWERS, Family, Tower

FOLDER = Path(__file__).parent
OTHER_VERSIONS = FOLDER.parents[1] / "results" / "matrix"
NOTE = "<!-- Made by docs/reference/generate.py from the code; change the docstrings, not this page. -->"


_SECTION = re.compile(r"^(Args|Returns|Raises):\n((?:    .*\n?)+)", re.MULTILINE)


def _as_list(found: re.Match[str]) -> str:
    """A docstring's section as a Markdown list."""
    title = {"Args": "Arguments"}.get(found[1], found[1])
    items: list[str] = []
    for row in found[2].splitlines():
        if row.startswith(" " * 8) and items:
            items[-1] += f" {row.strip()}"
        else:
            items.append(row.strip())
    if found[1] == "Returns":
        return f"{title}: {' '.join(items)}\n"
    named = (re.sub(r"^([\w, ]+):", r"`\1`:", item) for item in items)
    return f"{title}:\n\n" + "\n".join(f"- {item}" for item in named) + "\n"


def prose(text: str | None) -> str:
    """A docstring as Markdown."""
    text = inspect.cleandoc(text or "")
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")
    return _SECTION.sub(_as_list, text)


def line(text: str | None) -> str:
    """A docstring as one line of a table."""
    return " ".join(prose(text).split()).replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(title: str, *parts: str) -> str:
    return "\n\n".join([NOTE, f"# {title}", *(part.strip() for part in parts if part.strip())]) + "\n"


def own_docstring(cls: type) -> str:
    """The docstring written in the class; dataclasses and pydantic make up others."""
    return cls.__dict__.get("__doc__") or ""


def _class_node(cls: type) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(importlib.import_module(cls.__module__)))
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__)


def fields_of(cls: type) -> dict[str, tuple[str, str, str]]:
    """Field -> (type, default, what stands under it), as written in the class."""
    found: dict[str, tuple[str, str, str]] = {}
    body = _class_node(cls).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        if name.startswith("_") or ast.unparse(node.annotation).startswith("ClassVar") or name == "model_config":
            continue
        under = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            under = after.value.value
        default = "required" if node.value is None else _default(node.value)
        found[name] = (ast.unparse(node.annotation), default, under)
    return found


def _default(value: ast.expr) -> str:
    """The default as a recipe would spell it."""
    try:
        found = ast.literal_eval(value)
    except ValueError:
        return f"`{ast.unparse(value)}`"
    return "none" if found is None else f"`{str(found).lower()}`" if isinstance(found, bool) else f"`{found}`"


def kind(annotation: Any) -> str:
    """A type in words: ``integer >= 1``, ``cosine | linear``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner, *limits = arguments
        return " ".join([kind(inner), *filter(None, map(_limits, limits))])
    if origin is typing.Literal:
        return " \\| ".join(f"`{word}`" for word in arguments)
    if origin is list:
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"mapping: {kind(arguments[0])} to {kind(arguments[1])}"
    if origin in (typing.Union, UnionType):
        inner = " or ".join(kind(one) for one in arguments if one is not type(None))
        return f"{inner} or none" if type(None) in arguments else inner
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    return words.get(annotation, f"`{annotation}`")


def _limits(limit: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    holders = [limit, *getattr(limit, "metadata", [])]
    found = [
        f"{sign} {_power(getattr(holder, name))}"
        for name, sign in signs.items()
        for holder in holders
        if isinstance(getattr(holder, name, None), int | float)
    ]
    return ", ".join(dict.fromkeys(found))


def _power(limit: float) -> str:
    return "2^32" if limit == 2**32 else f"{limit:g}"


# ---- methods ----

LOW_FIDELITY = "low: no code and no full description is public; what the abstract leaves open is our choice"


def _method(cls: Any) -> list[str]:
    groups = {place: cls().groups(place) for place in cls.places}
    filled = "; ".join(
        f"{place}: {', '.join(f'`{group}`' for group in names) if names else 'none'}" for place, names in groups.items()
    )
    facts = [
        ("places", ", ".join(f"`{place}`" for place in cls.places)),
        ("start", f"`{cls.start}`. {line(_under(cls, 'start'))}".rstrip()),
        *([("paper", cls.paper)] if cls.paper else []),
        *([("fidelity", LOW_FIDELITY)] if cls.fidelity == "low" else []),
        ("layouts", ", ".join(f"`[{layout}]`" for layout in cls.layouts)),
        ("groups, with the defaults", filled),
        ("reads the question, with the defaults", "yes" if cls().reads_question else "no"),
    ]
    parts = [f"## {cls.name}", prose(own_docstring(cls)), f"`yarbus.methods.{cls.__name__}`", table(("", ""), facts)]
    options = fields_of(cls)
    if options:
        types = typing.get_type_hints(cls, include_extras=True)
        rows = [(f"`{name}`", kind(types[name]), default, line(under)) for name, (_, default, under) in options.items()]
        parts.append(table(("option", "type", "default", "meaning"), rows))
    if "preset" in vars(cls):
        parts.append(f"`{cls.__name__}.preset(name, **changes)`: {prose(inspect.getdoc(cls.preset))}")
    return parts


def _under(cls: type, name: str) -> str:
    """The docstring under a class variable."""
    body = _class_node(cls).body
    for node, after in itertools.pairwise(body):
        is_it = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
        if is_it and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return str(after.value.value)
    return ""


def methods() -> str:
    classes = list(dict.fromkeys(cls for entries in METHODS.values() for cls in entries.values()))
    rows = [
        (f"`{place}`", ", ".join(f"[`{name}`](#{entries[name].name})" for name in entries))
        for place, entries in METHODS.items()
    ]
    starts = (
        "`start` says what attaching does to the outputs before training: `identity` nothing (bit for bit, "
        "where torch multiplies by a frozen matrix as by one that trains: not behind a SigLIP); `rounding` no more "
        "than rounding; `changes` something that the method documents."
    )
    parts = [part for cls in classes for part in _method(cls)]
    title, what = "Methods", "What can be attached to each place of a model."
    return page(title, what, table(("place", "methods"), rows), starts, *parts)


# ---- recipes ----


def _section(cls: type[BaseModel]) -> list[str]:
    types = typing.get_type_hints(cls, include_extras=True)
    rows = [
        (f"`{name}`", kind(types[name]), _words(default), line(under))
        for name, (_, default, under) in fields_of(cls).items()
    ]
    return [f"## {cls.__name__}", prose(own_docstring(cls)), table(("key", "type", "default", "meaning"), rows)]


def _words(default: str) -> str:
    return "its defaults" if default.endswith("Section()`") else default


def recipes() -> str:
    rows = []
    for name, path in sorted(recipe.recipe_files().items()):
        loaded = load_recipe(name)
        variants = list(loaded.compare.variants) if loaded.compare else []
        source = "package" if path.parent.parent.name == "yarbus" else path.parent.parent.name
        rows.append((f"`{name}`", source, f"`{loaded.model.base}`", ", ".join(loaded.stages), ", ".join(variants)))
    parts = (
        recipe.Recipe,
        sections.ModelSection,
        sections.QuestionSection,
        sections.Stage,
        sections.GroupRate,
        sections.DataSection,
        sections.CompareSection,
        sections.RecordSection,
        sections.VisionGradientRecord,
        sections.RoutingRecord,
    )
    places = f"A place is one of {', '.join(f'`{place}`' for place in PLACES)}."
    groups = f"A group is one of {', '.join(f'`{group}`' for group in GROUPS)}."
    return page(
        "Recipes",
        "The keys of a recipe. A key that is not listed is refused, with the closest one that is. Besides these, the "
        "top of a recipe may name another to start from: `extends: NAME or FILE`. Options of a method stand on "
        "[Methods](methods.md).",
        f"{places} {groups}",
        *(part for cls in parts for part in _section(cls)),
        "## Shipped recipes",
        table(("name", "from", "base", "stages", "variants"), rows),
    )


# ---- command line ----


def _parameters(function: Callable[..., Any]) -> list[tuple[str, str, str, str]]:
    """Rows of a verb's table, from its signature: ``name: Annotated[type, typer.Option(...)] = default``."""
    rows = []
    types = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        info, default = parameter.default, parameter.default
        annotation = types[name]
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, info = typing.get_args(annotation)
        else:
            default = info.default
        if isinstance(info, OptionInfo):
            shown = next((one for one in info.param_decls or () if one.startswith("--")), f"--{name.replace('_', '-')}")
        else:
            shown = info.metavar or name.upper()
        what = _argument_type(annotation) + (f" >= {info.min}" if info.min is not None else "")
        required = default is inspect.Parameter.empty
        rows.append((f"`{shown}`", what, "required" if required else _said(default), line(info.help)))
    return rows


def _argument_type(annotation: Any) -> str:
    inner = [one for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) is list:
        return f"{_argument_type(inner[0])}, one or more"
    if inner:
        return _argument_type(inner[0])
    if issubclass(annotation, enum.Enum):
        return " \\| ".join(f"`{word.value}`" for word in annotation)
    return {str: "text", int: "integer", float: "number", bool: "switch", Path: "path"}[annotation]


def _said(default: Any) -> str:
    return "" if default is None or default is False else f"`{default}`"


def command_line() -> str:
    callback = application().registered_callback
    assert callback is not None and callback.callback is not None
    parts = [
        "`yarbus VERB --help` says the same. Options of the program itself stand before the verb.",
        table(("option", "type", "default", "meaning"), _parameters(callback.callback)),
    ]
    for verb, function in VERBS.items():
        rows = _parameters(function)
        parts += [f"## {verb}", prose(function.__doc__), table(("argument", "type", "default", "meaning"), rows)]
    return page("Command line", *parts)


# ---- errors ----


def _is_raised(cls: type) -> bool:
    """Whether some file of the package makes one."""
    files = Path(inspect.getfile(yarbus)).parent.rglob("*.py")
    return any(re.search(rf"\b(?<!class ){cls.__name__}\(\s*f?\"", path.read_text(encoding="utf-8")) for path in files)


def exit_codes() -> str:
    classes = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.UserError) and cls is not errors.UserError
    ]
    rows = [("0", "", "Done.")]
    for cls in classes:
        note = "" if _is_raised(cls) else " Reserved: nothing raises it yet."
        rows.append((str(cls.exit_code), f"`{cls.__name__}`", line(own_docstring(cls)) + note))
    rows += [("130", "", "Interrupted (Ctrl-C).")]
    rows.sort(key=lambda row: int(row[0]))
    return page(
        "Errors and exit codes",
        "Whatever a user can cause is one message on standard error, without a traceback: "
        "`error: WHAT: WHERE - why; fix: HOW`. `yarbus --debug VERB ...` shows the traceback. From Python the same "
        "message is an exception of `yarbus.core.errors`; all of them are a `UserError` with the fields `what`, "
        "`where`, `why`, `fix` and `exit_code`.",
        table(("exit code", "exception", "meaning"), rows),
        "A command line that cannot be parsed leaves with 2 as well.",
    )


# ---- models ----


def _dataclass_fields(cls: Any) -> str:
    rows = [
        (f"`{name}`", f"`{written}`".replace("|", "\\|"), default, line(under))
        for name, (written, default, under) in fields_of(cls).items()
    ]
    return table(("field", "type", "default", "meaning"), rows)


def _plain(value: Any) -> str:
    if callable(value):
        return f"`{value.__name__}`: {line(value.__doc__)}"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value) or "none"
    return "none" if value is None else f"`{value}`"


def _entries(known: Any) -> list[str]:
    parts = []
    for name, entry in known.items():
        rows = [(f"`{field.name}`", _plain(getattr(entry, field.name))) for field in dataclasses.fields(entry)]
        parts += [f"### {name}", table(("field", "value"), rows)]
    return parts


def models() -> str:
    return page(
        "Families and towers",
        "Where the supported models keep their parts. A model is known by the class name of its config, its tower by "
        "the class name of its vision config; [declare a tower](../how-to/declare-a-tower.md) adds to these tables.",
        "## Family",
        prose(own_docstring(Family)),
        _dataclass_fields(Family),
        *_entries(FAMILIES),
        "## Tower",
        prose(own_docstring(Tower)),
        _dataclass_fields(Tower),
        *_entries(TOWERS),
    )


# ---- the behaviour matrix ----


def _outcome(cell: dict[str, Any] | None) -> str:
    """A cell of the table: checks that hold, those that the base cannot in brackets, those that fail in bold."""
    if cell is None:
        return "not run"
    if "refused" in cell:
        return "refused"
    base, fails = len(cell.get("base_cannot", ())), len(cell.get("fails", ()))
    return f"{cell['holds']}{f' ({base})' if base else ''}{f' **{fails}**' if fails else ''}"


def _reasons(found: dict[str, Any], kind: str) -> list[str]:
    """One line per reason, with the methods and checks that it holds for."""
    lines: dict[tuple[str, str], set[str]] = {}
    for case, cell in found["methods"].items():
        outcomes = cell.get(kind, {})
        for check, why in ({"": outcomes} if isinstance(outcomes, str) else outcomes).items():
            lines.setdefault((check, _same_for_all(why)), set()).add(case)
    every = {case for case, cell in found["methods"].items() if "refused" not in cell}
    rows = []
    for (check, why), cases in lines.items():
        whom = "every method" if cases >= every and check else ", ".join(sorted(cases))
        rows.append(f"- {f'{_claim(check)} ({whom})' if check else whom}: {why}")
    return rows


def _same_for_all(why: str) -> str:
    """A reason without the numbers of one run, and without what would break a line of Markdown."""
    text = why.split(" Mismatched elements")[0].replace("|", " ").replace("<", "(").replace(">", ")")
    return " ".join(text.split())


def _claim(check: str) -> str:
    return check.removeprefix("test_").replace("_", " ")


def _other_versions() -> list[str]:
    """A table for every record that was made on other versions of the libraries."""
    parts = []
    for path in sorted(OTHER_VERSIONS.glob("*.json")):
        found = read_record(path)["models"]
        versions = {f"transformers {model['transformers']} and torch {model['torch']}" for model in found.values()}
        rows = []
        for name, model in found.items():
            cells = model["methods"].values()
            sums = (sum(len(cell.get(kind, ())) for cell in cells) for kind in ("base_cannot", "fails"))
            rows.append((name, str(sum(cell.get("holds", 0) for cell in cells)), *map(str, sums)))
        missing = [name for name in tested() if name not in found]
        parts += [
            f"## On {', '.join(sorted(versions))}",
            "The same checks, once by hand: `python -m tests.matrix.run --record "
            f"{path.relative_to(OTHER_VERSIONS.parents[1])}` in an environment of its own."
            + (f" Not there: {', '.join(missing)}." if missing else ""),
            table(("model", "hold", "base cannot", "fail"), rows),
        ]
        for name, model in found.items():
            known = _reasons(tested()[name], "base_cannot") if name in tested() else []
            lines = [line for line in _reasons(model, "base_cannot") if line not in known] + _reasons(model, "fails")
            parts += [f"### {name}, there alone", "\n".join(lines)] if lines else []
    return parts


def matrix() -> str:
    found = tested()
    cases = list(dict.fromkeys(case for model in found.values() for case in model["methods"]))
    checks = sum(cell.get("holds", 0) for model in found.values() for cell in model["methods"].values())
    versions = sorted({f"transformers {model['transformers']}, torch {model['torch']}" for model in found.values()})
    kinds = [
        (
            name,
            f"`{model['config']}`",
            f"`{model['tower']}`",
            str(sum("refused" not in c for c in model["methods"].values())),
        )
        for name, model in found.items()
    ]
    rows = [(case, *(_outcome(model["methods"].get(case)) for model in found.values())) for case in cases]
    limits = [
        part
        for name, model in found.items()
        if (lines := _reasons(model, "base_cannot") + _reasons(model, "fails") + _reasons(model, "refused"))
        for part in (f"### {name}", "\n".join(lines))
    ]
    return page(
        "The behaviour matrix",
        f"Every method on a small random model of every family and kind of tower: {checks:,} checks hold "
        f"({'; '.join(versions)}). `make matrix` runs them; the checks are the tests in "
        "[tests/matrix](../../tests/matrix), the methods the small versions in "
        "[cases.py](../../tests/methods/cases.py). Released weights were not run.",
        "A number counts the checks that hold; in brackets stand those that the unchanged model fails as well when the "
        'same check is run on it ("base cannot"); in bold those that fail. Methods differ in how many checks say '
        "something about them.",
        table(("model", "family", "tower", "methods"), kinds),
        "## Method by model",
        table(("", *found), rows),
        "## What the base cannot, and what is refused",
        *limits,
        *_other_versions(),
    )


# ---- Python ----


def _function(name: str) -> list[str]:
    function = getattr(yarbus, name)
    signature = str(inspect.signature(function))
    signature = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", signature).replace("'", "")
    return [f"## yarbus.{name}", f"```text\n{name}{_wrapped(signature)}\n```", prose(inspect.getdoc(function))]


def _wrapped(signature: str) -> str:
    if len(signature) < 80:
        return signature
    inside, _, after = signature.rpartition(") -> ")
    depth, parts, current = 0, [], ""
    for letter in inside[1:]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    parts.append(current.strip())
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {after}"


def python() -> str:
    rows = [(f"`{name}`", default, line(under)) for name, (_, default, under) in fields_of(Question).items()]
    parts = [part for name in sorted(yarbus.__all__) for part in _function(name)]
    return page(
        "Python",
        "What `import yarbus` offers. Importing it loads neither torch nor transformers.",
        *parts,
        "## yarbus.models.question.Question",
        prose(own_docstring(Question)),
        table(("field", "default", "meaning"), rows),
    )


PAGES: dict[str, Callable[[], str]] = {
    "methods.md": methods,
    "recipe.md": recipes,
    "cli.md": command_line,
    "errors.md": exit_codes,
    "models.md": models,
    "matrix.md": matrix,
    "python.md": python,
}


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {name: make() for name, make in PAGES.items()}


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
