"""Modules, functions and parameter lists stay small enough to read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path for name in ("freeda", "index_build", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 45, 7


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_small_enough_to_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for node in functions:
        assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
        named = [item.arg for item in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        taken = [name for name in named if name not in ("self", "cls")]
        assert node.name.startswith("_") or len(taken) <= MAX_PARAMETERS, node.name
