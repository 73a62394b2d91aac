"""Statements that set an attribute, or name it without effect, and the parameters that they are about."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradlint.findings import Edit
from gradlint.location import Location
from gradlint.source.file import SourceModule
from gradlint.source.lookup import name_parts

_DEEPEST = 8


@dataclass(frozen=True)
class Write:
    """A statement that sets an attribute of something, or names it without effect."""

    module: SourceModule
    node: ast.expr | ast.stmt
    base: ast.expr
    """The expression that the attribute is of."""
    value: ast.expr | None
    """The value that it is set to or compared with, if any."""
    is_plain: bool = True
    """True if it is one ``base.attribute = value``, which can be rewritten as a whole."""

    @property
    def location(self) -> Location:
        """The span of the statement."""
        return self.module.location(self.node)

    def rewritten(self, code: str) -> tuple[Edit, ...]:
        """Return the edit that makes it ``base.code``; empty if it cannot be rewritten as a whole."""
        return (Edit(self.location, f"{self.module.text(self.base)}.{code}"),) if self.is_plain else ()

    def fit(self, fqn: str) -> int:
        """Return how many parts of an fqn the statement spells out, or -1 if it is about another.

        A loop variable is about the object that the loop goes over.
        """
        return max(_overlap(name_parts(base)[1:], fqn.split(".")) for base in containers_of(self.module, self.base))


def _overlap(written: list[str], parts: list[str]) -> int:
    starts = range(len(parts) - len(written) + 1)
    return len(written) if any(parts[i : i + len(written)] == written for i in starts) else -1


def best_write(writes: Iterable[Write], fqn: str) -> Write | None:
    """Return the write that is most likely about a name, or None if none can be."""
    return max((w for w in writes if w.fit(fqn) >= 0), key=lambda w: w.fit(fqn), default=None)


def attribute_writes(module: SourceModule, attribute: str) -> Iterator[Write]:
    """Yield the assignments of a file to attributes of this name, of any object."""
    for use in module.tree.attributes.get(attribute, ()):
        statement = module.tree.parents[use]
        if isinstance(statement, ast.Assign):
            yield from (write for write in write_of(module, statement, attribute) if write.base is use.value)


def write_of(module: SourceModule, node: ast.AST, attribute: str) -> Iterator[Write]:
    """Yield what a node writes to attributes of this name: by assignment or by ``setattr``."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == attribute:
                    yield Write(module, node, target.value, value, len(targets) == 1)
        case ast.Call(func=ast.Name(id="setattr"), args=[base, ast.Constant(value=name), value]) if name == attribute:
            yield Write(module, node, base, value, is_plain=False)


def idle_flag_statement(module: SourceModule, node: ast.AST) -> Write | None:
    """Return a statement that only names the flag.

    That is ``p.requires_grad == False`` or ``p.requires_grad_``.
    """
    match node:
        case ast.Expr(
            value=ast.Compare(
                left=ast.Attribute(value=base, attr="requires_grad"), ops=[ast.Eq(), *_], comparators=[right, *_]
            )
        ):
            return Write(module, node, base, right)
        case ast.Expr(value=ast.Attribute(value=base, attr="requires_grad_")):
            return Write(module, node, base, None)
    return None


def containers_of(module: SourceModule, base: ast.expr, depth: int = 0) -> Iterator[ast.expr]:
    """Yield the X of ``for p in X.parameters()`` for its loop variable, else the expression.

    A function that walks several things, as ``zip`` and ``chain`` do, gives each of them.
    """
    loop = _loop_of(module, base) if isinstance(base, ast.Name) and depth <= _DEEPEST else None
    if loop is None:
        yield base
        return
    pending = [loop.iter]
    for source in pending:
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.args:
            pending += source.args
        elif isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute):
            yield from containers_of(module, source.func.value, depth + 1)
        else:
            yield from containers_of(module, source, depth + 1)


def _loop_of(module: SourceModule, name: ast.Name) -> ast.For | ast.AsyncFor | ast.comprehension | None:
    """Return the loop whose variable a name is; of several, one around the name, else the last."""
    around = set(module.tree.above(name))
    loop = None
    for binding in module.tree.bindings(name):
        loop = None
        for above in module.tree.above(binding):
            if isinstance(above, ast.For | ast.AsyncFor | ast.comprehension) and binding in ast.walk(above.target):
                loop = above
                if above in around or module.tree.parents.get(above) in around:
                    return loop
            if isinstance(above, ast.stmt):
                break
    return loop
