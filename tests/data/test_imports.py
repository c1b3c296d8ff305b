"""How the modules of `bam.data` depend on each other."""

import ast
import graphlib
from pathlib import Path

import bam.data

ROOT = Path(bam.data.__file__).parent


def name_of(path):
    parts = ("bam", "data", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_import_each_other_in_no_circle():
    """Lazy imports and those for type checkers count as well."""
    names = {name_of(path) for path in ROOT.rglob("*.py")}
    imports = {}
    for path in ROOT.rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        modules = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        imports[name_of(path)] = (modules | {node.module for node in nodes}) & names
    assert sum(map(len, imports.values())) > 20  # the test can tell
    assert len(list(graphlib.TopologicalSorter(imports).static_order())) == len(names)
