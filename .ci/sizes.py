"""A file is one concept and a function one thought: refuse longer ones."""

import ast
import sys
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 40


def too_long(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = [f"{path}: {lines} lines, at most {FILE_LINES}"] if lines > FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
            length = (node.end_lineno or 0) - first.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines of body, at most {FUNCTION_LINES}")
    return found


sources = [path for top in ("service", "model", "bench", ".ci") for path in sorted(Path(top).rglob("*.py"))]
faults = [fault for path in sources for fault in too_long(path)]
print("\n".join(faults) or f"sizes: {len(sources)} files, none too long")
sys.exit(bool(faults))
