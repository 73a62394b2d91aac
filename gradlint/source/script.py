"""What importing a script would do, as its syntax shows it."""

from __future__ import annotations

import ast

_PARSERS = ("parse_args", "parse_known_args", "parse_args_into_dataclasses")


def is_main_guard(statement: ast.stmt) -> bool:
    """Return True for ``if __name__ == "__main__":``."""
    test = statement.test if isinstance(statement, ast.If) else None
    return isinstance(test, ast.Compare) and {"__name__", "'__main__'"} <= {
        ast.unparse(part) for part in (test.left, *test.comparators)
    }


def parsed_at_import(tree: ast.Module) -> int | None:
    """Return the line at which importing a module parses the command line; None if nothing does."""
    functions = {s.name: s for s in tree.body if isinstance(s, ast.FunctionDef)}
    entered: set[str] = set()
    todo: list[ast.AST] = [statement for statement in tree.body if not is_main_guard(statement)]
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _PARSERS:
                return node.lineno
            if name in functions and name not in entered:
                entered.add(name)
                todo += functions[name].body
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.argv":
            return node.lineno
        todo += ast.iter_child_nodes(node)
    return None
