"""The README's Python runs as it stands, its files exist, and the notebook executes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient

from freeda.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_readme_runs(code: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_commands_in_the_readme_exist() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("freeda ")]
    assert len(lines) >= 4
    for line in lines:
        words = line.split("#")[0].split()[1:]
        depth = 2 if words[0] in ("index", "captions") else 1
        used = [word for word in words if word.startswith("--")]
        shown = CliRunner().invoke(main, [*words[:depth], "--help"])
        assert shown.exit_code == 0, line
        assert all(option in shown.output for option in used), line


def test_files_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_execute_and_are_committed_executed(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code[1:]), "commit the notebook with its outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
