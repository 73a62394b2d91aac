"""The loops of a file, what runs before a statement, and whether any layer depends on the mode."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from gradlint.source.file import SourceModule
from gradlint.source.scopes import Function, dotted_text, own_nodes
from gradlint.source.training_order import FunctionEffects, Loop


def preceding(module: SourceModule, statement: ast.stmt) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield (statement, was it an earlier iteration) for what ran before one, nearest first.

    Blocks that always run are entered. The walk leaves a branch only if it counts iterations, and goes round the loop
    once if it has no `continue`.
    """
    tree = module.tree
    while True:
        block = tree.block(statement)
        yield from ((s, False) for s in _backwards(block[: block.index(statement)]))
        parent = tree.parents.get(statement)
        if isinstance(parent, ast.For | ast.AsyncFor | ast.While) and statement in parent.body:
            if not any(isinstance(n, ast.Continue) for n in ast.walk(parent)):
                yield from ((s, True) for s in _backwards(parent.body[parent.body.index(statement) + 1 :]))
            return
        counts = isinstance(parent, ast.If) and statement in parent.body and _counts(parent)
        if not isinstance(parent, ast.With | ast.AsyncWith) and not counts:
            return
        assert isinstance(parent, ast.stmt)
        statement = parent


def _backwards(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in reversed(block):
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from _backwards(statement.body)
        else:
            yield statement


def _counts(branch: ast.If) -> bool:
    return any(isinstance(n, ast.Mod) for n in ast.walk(branch.test))


@functools.lru_cache(maxsize=2)  # several rules ask about one file
def functions_and_loops(module: SourceModule) -> list[tuple[FunctionEffects, list[Loop]]]:
    """Return each function, and the top level of the file, with its loops from the outside in."""
    tree = module.tree
    functions: list[ast.Module | Function] = [
        module.syntax,
        *tree.nodes(ast.FunctionDef),
        *tree.nodes(ast.AsyncFunctionDef),
    ]
    return [
        (
            FunctionEffects(module, function),
            [n for n in own_nodes(function) if isinstance(n, ast.For | ast.AsyncFor | ast.While)],
        )
        for function in functions
    ]


def is_mode_free(module: SourceModule) -> bool:
    """Return True if a file builds networks and none of its layers depends on the mode."""
    tree = module.tree
    if not _LAYERS.search(module.source.text):
        return False
    homes = [(node, (node.module or "").split(".")) for node in tree.nodes(ast.ImportFrom)]
    imported = [
        a.name
        for node, home in homes
        if (node.level or home[0] not in _PACKAGES_WITHOUT_NETWORKS) and _DATA.isdisjoint(home)
        for a in node.names
    ]
    return not _MODES.search(module.source.text) and not any(name[:1].isupper() for name in imported)


_DATA = frozenset("data dataset datasets dataloader dataloaders data_loader data_utils transforms".split())
"""Names of modules that give a file data sets and loaders, and no network."""


_PACKAGES_WITHOUT_NETWORKS = frozenset(
    "torch torchvision tensorboardX tensorboard pathlib PIL typing collections dataclasses datetime tqdm numpy "
    "matplotlib abc enum functools argparse copy omegaconf wandb __future__".split()
)
"""Packages that give a file no network of their own, except by names that _MODES matches."""


_LAYERS = re.compile(r"\bnn\.[A-Z]|torch\.nn import")


_MODES = re.compile(
    r"ropout|atch_?[Nn]orm|nstance_?[Nn]orm|RReLU|rrelu|Transformer|Multihead|LSTM|GRU|\.training\b|models\."
)


def bound_in(loop: Loop) -> set[str]:
    """Return the texts of the names and attributes that a loop binds."""
    nodes = own_nodes(ast.Module(body=[loop], type_ignores=[]))
    return {dotted_text(n) for n in nodes if isinstance(getattr(n, "ctx", None), ast.Store | ast.Del)}
