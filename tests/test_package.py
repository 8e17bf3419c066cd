"""The library as it is installed: what its wheel holds, which versions it asks for, and the README's lines far away."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import zeroinit
from common.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing appears in the checkout, and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "zeroinit", source / "zeroinit", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "llm").mkdir()  # a neighbour in the checkout that must stay outside
    (source / "llm" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, source)
    (found,) = folder.glob("*.whl")
    return found


def run(*command: object, python: object = sys.executable, **options) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(python), *map(str, command)], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    ours = {name for name in names if ".dist-info/" not in name}
    expected = {f"zeroinit/{file.name}" for file in (ROOT / "zeroinit").iterdir() if file.suffix in (".py", ".typed")}
    assert ours == expected
    assert "zeroinit/py.typed" in ours
    assert any(name.endswith("LICENSE") for name in names)


def test_what_the_wheel_says(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        told = Parser().parsestr(archive.read(name).decode())
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("zeroinit", zeroinit.__version__, "MIT")
    assert "# " in told.get_payload()  # the README
    needed = [Requirement(text) for text in told.get_all("Requires-Dist")]
    assert {r.name for r in needed if r.marker is None} == {"torch", "transformers", "safetensors"}
    for requirement in needed:
        # What the tests run with lies inside: requirements.txt is the newest, requirements-oldest.txt the oldest.
        installed = importlib.metadata.version(requirement.name).partition("+")[0]
        assert requirement.specifier.contains(installed), f"{requirement} does not allow {installed}"
        if requirement.name == "matplotlib":  # any will do
            continue
        bounds = {bound.operator: bound.version for bound in requirement.specifier}
        assert set(bounds) == {">=", "<"}, requirement
        oldest = re.search(rf"^{requirement.name}==(\S+)", (ROOT / "requirements-oldest.txt").read_text(), re.M)
        newest = re.search(rf"^{requirement.name}==(\d+)\.(\d+)", (ROOT / "requirements.txt").read_text(), re.M)
        assert oldest
        assert (oldest[1] + ".0").startswith(bounds[">="])
        assert newest
        assert bounds["<"] == f"{newest[1]}.{int(newest[2]) + 1}"


@pytest.mark.slow
def test_own_model_lines_of_the_readme_far_from_the_repository(wheel, tmp_path):
    """A fresh environment sees the test environment's packages through a .pth file, and the wheel; nothing else."""
    run("-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", python=python).strip())
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (lines,) = [block for block in blocks if "zeroinit.attach" in block]
    check = "import importlib.util as u; assert u.find_spec('llm') is None; print(zeroinit.__file__)"
    (tmp_path / "own.py").write_text(lines + check)
    (tmp_path / "elsewhere").mkdir()
    told = run("-I", tmp_path / "own.py", python=python, cwd=tmp_path / "elsewhere")
    assert "trainable parameters" in told
    assert told.splitlines()[-1] == str(site / "zeroinit" / "__init__.py")
    assert sorted(p.name for p in (tmp_path / "elsewhere" / "my-adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    run("-I", "-m", "zeroinit.gates", "my-adapter", python=python, cwd=tmp_path / "elsewhere")


def test_importing_costs_nothing_and_names_what_there_is():
    code = "import sys, zeroinit; assert 'torch' not in sys.modules; print(' '.join(zeroinit.__all__))"
    assert run("-c", code, cwd=ROOT).split() == zeroinit.__all__
    for name in zeroinit.__all__:
        assert getattr(zeroinit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = zeroinit.colour
