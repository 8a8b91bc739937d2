"""Every method on every small model: ``make matrix``, resumable, less than an hour of two idle cores.

Each model is a pytest run of its own, several at a time. What it found is kept in ``build/matrix`` under a hash of the
code that it ran; the same call goes on with the models that are missing or whose code has changed. What was found
stands in ``yarbus/models/tested.json``, which ``yarbus list families`` and the reference page read.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests import tiny
from tests.matrix.cells import BASE_CANNOT, Cell, built, refusal
from tests.matrix.conftest import HOLDS
from tests.methods.cases import CASES
from yarbus.core.records import make_folder, read_record, write_json
from yarbus.models.tested import RECORD
from yarbus.models.vlm import VLM

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "matrix"
READ = ("yarbus/models", "yarbus/methods", "yarbus/core", "tests/matrix", "tests/tiny", "tests/methods/cases.py")
"""What the outcome depends on, besides the libraries."""
LIBRARIES = ("torch", "transformers")
TEMPORARY = re.compile(r"\S*/pytest-of-\S+")
"""A folder of one run, in a reason."""


def fingerprint() -> str:
    """Hash of the code and the versions that a run depends on."""
    digest = hashlib.sha256(" ".join(version(name) for name in LIBRARIES).encode())
    for place in READ:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def is_done(name: str, work: Path, code: str) -> bool:
    place = work / f"{name}.json"
    return place.is_file() and read_record(place).get("code") == code


def run(name: str, work: Path, code: str) -> str:
    """Runs all checks on one model in a process of its own, and returns pytest's last line."""
    place, log = work / f"{name}.json", work / f"{name}.log"
    place.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "tests/matrix", "-q", "--matrix", name, "--matrix-record", str(place)]
    # Shapes are checked by `make test`; here that would cost half of the time.
    options = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "--tb=short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as out:
        subprocess.run(
            [*command, *options], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if not place.is_file():
        raise SystemExit(f"no result for {name}: see {log}")
    write_json(place, {"code": code, **read_record(place)})
    return log.read_text(encoding="utf-8").strip().splitlines()[-1]


def summary(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What the record says of one model: by case the number of checks that hold, and every other outcome by check."""
    vlm = VLM.of(built(name)[0])
    methods: dict[str, Any] = {}
    for case in CASES:
        if (why := refusal(Cell(name, case))) is not None:
            methods[case] = {"refused": why}
            continue
        checks = found["cases"].get(case, {})
        methods[case] = {"holds": sum(outcome == HOLDS for outcome in checks.values())}
        for kind, begin in (("base_cannot", BASE_CANNOT), ("fails", "")):
            others = {
                check: TEMPORARY.sub("(folder)", outcome.removeprefix(begin))
                for check, outcome in checks.items()
                if outcome != HOLDS and outcome.startswith(BASE_CANNOT) is (kind == "base_cannot")
            }
            methods[case] |= {kind: others} if others else {}
    return {"config": vlm.family.config, "tower": vlm.tower.config, "methods": methods}


def write_record(work: Path, place: Path) -> dict[str, Any]:
    """Puts what was found into a record: the models of this folder, and of others what the record had."""
    before = read_record(place)["models"] if place.is_file() else {}
    versions = {name: version(name).partition("+")[0] for name in LIBRARIES}
    models = {}
    for name in tiny.EVERY:
        found = work / f"{name}.json"
        if found.is_file():
            models[name] = {**summary(name, read_record(found)), **versions}
        elif name in before:
            models[name] = before[name]
    make_folder(place.parent)
    write_json(place, {"command": "make matrix", "models": models})
    return models


def failures(models: dict[str, Any]) -> list[str]:
    return [
        f"{name}, {case}, {check}: {why}"
        for name, model in models.items()
        for case, found in model["methods"].items()
        for check, why in found.get("fails", {}).items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(tiny.EVERY), help="some of them, by comma")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the results")
    parser.add_argument("--record", type=Path, default=RECORD, help="where they stand; of older libraries not ours")
    arguments = parser.parse_args()
    make_folder(arguments.work)
    code, names = fingerprint(), arguments.models.split(",")
    if unknown := set(names) - set(tiny.EVERY):
        raise SystemExit(f"unknown model {sorted(unknown)[0]}; one of: {', '.join(tiny.EVERY)}")
    missing = [name for name in names if not is_done(name, arguments.work, code)]
    print(f"{len(names) - len(missing)} of {len(names)} models are done", flush=True)
    begin = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(run, name, arguments.work, code): name for name in missing}
        for number, future in enumerate(as_completed(running), 1):
            left = (time.monotonic() - begin) / number * (len(missing) - number) / 60
            print(
                f"{number}/{len(missing)} {running[future]}: {future.result()}; about {left:.0f} min left", flush=True
            )
            write_record(arguments.work, arguments.record)
    failing = failures(write_record(arguments.work, arguments.record))
    print("\n".join(failing) or "nothing fails that the unchanged model can do")
    raise SystemExit(bool(failing))


if __name__ == "__main__":
    main()
