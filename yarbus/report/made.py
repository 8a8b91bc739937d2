"""How a page was made: command, statistics, environments, recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from yarbus.report.markup import Markup, join, tag


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as dotted keys and texts."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}{key}.")]
    return [(prefix.removesuffix("."), ", ".join(map(str, value)) if isinstance(value, list) else str(value))]


def _surroundings(environment: dict[str, Any]) -> dict[str, Any]:
    """What a run ran in, without what names the run itself."""
    return {key: value for key, value in environment.items() if key not in ("run", "stages", "start")}


def machine_of(environment: dict[str, Any]) -> str:
    """``2 CPU cores, NVIDIA H200``: the machine of an environment in a few words; empty where none is recorded."""
    machine = environment.get("machine") or {}
    parts = [f"{machine['cpus']} CPU cores"] if machine.get("cpus") else []
    accelerators = [str(name) for name in machine.get("accelerators") or []]
    parts += [", ".join(dict.fromkeys(accelerators)) or "no GPU"] if machine else []
    return ", ".join(parts)


def place_of(folder: Path) -> Path | str:
    """The folder as a command names it; of an absolute path its name alone, which says nothing about a machine."""
    return folder.name if folder.is_absolute() else folder


def made(
    *,
    command: str,
    folder: Path,
    statistics: str,
    environments: Sequence[dict[str, Any]],
    recipe: Any = None,
    note: str | None = None,
) -> Markup:
    """The section's content."""
    parts = [tag("p", "The numbers on this page come from"), tag("pre", tag("code", command))] if command else []
    parts += [
        tag("p", "The page is drawn again, from the records alone, by"),
        tag("pre", tag("code", f"yarbus report {place_of(folder)}")),
    ]
    if note:
        parts.append(tag("p", note))
    parts.append(tag("p", statistics))
    recorded = [_surroundings(environment) for environment in environments if environment]
    if recorded:
        environment = recorded[0]
        rows = [tag("tr", tag("th", key, scope="row"), tag("td", text)) for key, text in _flat(environment)]
        same = sum(one == environment for one in recorded)
        title = "Environment" if len(recorded) == 1 else f"Environment (the same in {same} of {len(recorded)} runs)"
        table = tag("table", tag("tbody", *rows), class_="plain")
        parts.append(tag("details", tag("summary", title), tag("div", table, class_="wide")))
    if recipe:
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        parts.append(tag("details", tag("summary", "Recipe"), tag("pre", tag("code", text))))
    return join(parts)
