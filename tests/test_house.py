"""The house: who may import whom, no circles, files that one reads in a sitting, commands that start at once."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from common.paths import ROOT

# A room may import itself and these.
MAY_IMPORT = {
    "zeroinit": set(),
    "common": set(),
    "theory": {"common"},
    "llm.data": {"common"},
    "llm.methods": {"common", "zeroinit"},
    "llm.training": {"common", "zeroinit", "llm.data", "llm.methods"},
    "llm.evaluation": {"common", "zeroinit", "llm.data", "llm.methods"},
    "llm.world": {"common", "zeroinit", "llm.data", "llm.methods", "llm.training"},
    "llm.real": {
        "llm.options",
        "common",
        "zeroinit",
        "llm.data",
        "llm.methods",
        "llm.training",
        "llm.evaluation",
        "llm.world",
    },
    "llm": {"common", "zeroinit", "llm.data", "llm.methods", "llm.training", "llm.evaluation", "llm.world", "llm.real"},
    "figures": {"common", "theory", "llm.data", "llm.methods", "llm.training", "llm.evaluation", "llm.world"},
    "fuzz": {
        "common",
        "zeroinit",
        "theory",
        "llm",
        "llm.data",
        "llm.methods",
        "llm.training",
        "llm.evaluation",
        "llm.world",
        "llm.real",
    },
}
COMMANDS = sorted(p.name for p in (ROOT / "llm").glob("*.py") if "__main__" in p.read_text())
HEAVY = ("torch", "transformers", "peft", "datasets", "lm_eval")


def files():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("zeroinit", "common", "theory", "llm", "figures", "fuzz")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "llm" and (ROOT / "llm" / "/".join(parts[1:2])).is_dir() else parts[0]


def imports(path, known, inside_functions: bool):
    """Modules of the project that a file imports, typing-only imports left out."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
        if isinstance(node, ast.FunctionDef) and not inside_functions:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in known}


def test_rooms_import_one_way():
    known, wrong = files(), []
    for module, path in known.items():
        here = room(module)
        for other in imports(path, known, inside_functions=True):
            if here not in (room(other), other) and not {room(other), other} & MAY_IMPORT[here]:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_there_are_no_circles():
    known = files()
    graph = {module: imports(path, known, inside_functions=False) - {module} for module, path in known.items()}
    # A package's own file is run before its modules, and names none of them at import.
    graph = {module: {o for o in others if not module.startswith(o + ".")} for module, others in graph.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_files_can_be_read_in_a_sitting():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    long = {
        name: lines
        for name in tracked
        if not name.startswith("tests/") and (lines := len((ROOT / name).read_text().splitlines())) > 300
    }
    assert not long


def test_the_top_of_llm_holds_commands_and_little_else():
    assert len([p for p in (ROOT / "llm").iterdir() if p.is_file()]) <= 12


@pytest.mark.parametrize("command", [["llm/finetune.py", "--list"], *([f"llm/{name}", "--help"] for name in COMMANDS)])
def test_commands_say_what_they_do_without_torch(command):
    words = [str(ROOT / command[0]), *command[1:]]
    script = (
        f"import runpy, sys\nsys.argv = {words!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"except SystemExit:\n    pass\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("module", [m for m, path in files().items() if "__main__" in path.read_text()])
def test_help_of_every_command_writes_nothing(module):
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "results").glob("*/*")}
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout[:6], done.stderr) == (0, "usage:", "")
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "results").glob("*/*")} == before


def test_contributing_names_files_and_tests_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = "zeroinit|theory|llm|common|figures|fuzz|notebooks|tests|docs|benchmarks"
    paths = set(re.findall(rf"`((?:{rooms})/[\w/.]*)`", text))
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]
    for test, path in re.findall(r"`(test_\w+)` in `(tests/\w+\.py)`", text):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
