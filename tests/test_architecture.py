"""The house: floors from the ground up. A module imports what lies below its floor, and no two modules need each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.places import ROOT


PACKAGE = ROOT / "delta_trl"

# From the ground up: a module or package directly inside delta_trl imports only those named before it; "" is the package's
# own face, which nobody inside imports. Imports within a function, and those for a type checker, count as well.
FLOORS = (
    *("version", "progress", "commands", "jsonl", "responses", "tables", "run_folder"),
    *("sweeps", "coefficients", "hidden_states", "token_mask", "features", "rollout", "credit", "metrics", "records"),
    *("option_checks", "config", "hub", "checks"),
    *("sandbox", "rewards", "data", "reasoning_gym"),
    *("seams", "base", "token_credit", "previous", "trainer", "baselines", "methods"),
    *("evaluation", "report", "train", "research", "__main__", ""),
)
# Modules of more than 300 lines: to be shortened, not to be added to
TOO_LONG = {"rewards.pool"}


def module_name(path: Path, package: Path) -> str:
    """`a.b` of a/b.py and of a/b/__init__.py; "" of the package's own __init__.py."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path) -> dict[str, set[str]]:
    """For each module of a package those of its modules that it imports anywhere in its text."""
    files = {module_name(path, package): path for path in package.rglob("*.py")}
    return {name: _imports(name, path, package.name, files) - {name} for name, path in files.items()}


def _imports(name: str, path: Path, package: str, files: dict[str, Path]) -> set[str]:
    folder = name.split(".") if name else []
    if path.name != "__init__.py":
        folder = folder[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = [package, *folder[: len(folder) - (node.level - 1)]] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == package:
                whole, outer = ".".join(target[1:]), ".".join(target[1:-1])
                found.add(whole if whole in files else outer)  # else a name inside a module
    return found


def floor_of(module: str) -> int:
    return FLOORS.index(module.partition(".")[0])


def arrows(graph: dict[str, set[str]]) -> list[str]:
    """Imports that go up, or into another room of the same height."""
    return [
        f"{module} imports {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if module.partition(".")[0] != target.partition(".")[0] and floor_of(module) <= floor_of(target)
    ]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return imports(PACKAGE)


def test_every_module_has_a_floor(graph):
    homeless = sorted({module.partition(".")[0] for module in graph} - {*FLOORS})
    assert not homeless, f"give them a place in FLOORS: {homeless}"


def test_no_import_goes_up(graph):
    assert arrows(graph) == []


def test_no_modules_need_each_other(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' imports '.join(reversed(error.args[1]))}")


def test_no_module_is_longer_than_300_lines():
    lengths = {module_name(p, PACKAGE): len(p.read_text(encoding="utf-8").splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {name: lines for name, lines in lengths.items() if lines > 300 and name not in TOO_LONG}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from ..jsonl import read_lines", {"jsonl"}),
        ("from .. import jsonl", {"jsonl"}),
        ("from . import there", {"room.there"}),
        ("import delta_trl.jsonl\nfrom delta_trl.room import there", {"jsonl", "room.there"}),
        ("def f():\n    from ..room.there import x", {"room.there"}),
        ("from .. import __version__", {""}),
        ("import json\nfrom jsonl import x", set()),
    ],
)
def test_every_way_to_import_is_seen(tmp_path, text, found):
    package = tmp_path / "delta_trl"
    for path in ("__init__.py", "jsonl.py", "room/__init__.py", "room/there.py", "room/here.py"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text if path == "room/here.py" else "")
    assert imports(package)["room.here"] == found


def test_an_import_that_goes_up_is_named():
    assert arrows({"jsonl": {"tables"}, "rewards.exact": {"jsonl", "data"}, "data": {"rewards"}}) == [
        "jsonl imports tables",
        "rewards.exact imports data",
    ]
