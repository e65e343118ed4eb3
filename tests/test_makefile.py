"""What make would do, and when it installs again; nothing is run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLS = "-m pip install --quiet -c constraints.txt -e '.[dev]'"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """Return what ``make -n`` prints in a copy of the repository's own files."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)

    def run(*arguments):
        command = ["make", "-n", *arguments]
        # Nothing of the make that may run this test.
        env = {"PATH": os.environ["PATH"]}
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def installed(tmp_path):
    """The folder as it is after ``make setup``."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()


@pytest.mark.parametrize(
    "target",
    [
        "setup",
        "train",
        "test",
        "test-slow",
        "test-long",
        "fuzz",
        "browser",
        "check",
        "bench",
        "references",
        "dashboard",
        "lint",
        "format",
    ],
)
def test_every_target_installs_in_a_fresh_clone(make, target):
    said = make(target)
    assert "-m venv .venv" in said
    assert INSTALLS in said
    assert "sam2==1.1.0" in said


@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("train", "train.py visualizations.enabled=true"),
        ("test", "-m pytest -n auto"),
        ("dashboard", "swanlab watch swanlog -h 127.0.0.1 -p 5092"),
        ("lint", "ruff check ."),
    ],
)
def test_targets_start_at_once_when_everything_is_installed(make, installed, target, program):
    said = make(target)
    assert program in said
    assert "pip" not in said


def test_what_benchmarks_compare_with_never_reaches_the_environment_of_training(make, installed):
    said = make("bench")
    assert ".venv/bin/python -m venv .venv-bench" in said
    peers, official = [line for line in said.splitlines() if "pip install" in line]
    assert peers.startswith(".venv-bench/bin/python -m pip")
    assert official.startswith(".venv-loading/bin/python -m pip")
    assert ".venv-bench/bin/python -m tests.benchmarks" in said


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_an_edited_list_of_packages_is_installed_again(make, installed, name):
    assert INSTALLS in make("-W", name, "test")
    assert INSTALLS not in make("-W", "Makefile", "test")


def test_continuous_integration_runs_every_kind_of_test(make):
    (line,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "make" in line]
    said = make(*line.removeprefix("make ").split())
    assert '-m "not long" --timeout' in said  # besides it, every marker: see pyproject.toml
    assert "install --quiet -c constraints.txt selenium" in said
    assert "ruff check ." in said
