"""The kind of thing that an expression gives, as far as one file proves it: a module, a parameter, a tensor."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Literal

from gradlint.source.names import Names
from gradlint.source.scopes import Tree, self_name

What = Literal["module", "parameter", "tensor", "optimizer", "many", "other"]
_DEEPEST = 16
_MOST_STEPS = 300
"""Number of expressions after which one counts as unknown: names may be bound to each other without end."""
_NOT_MODULES = frozenset(("Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer"))
_SAME = frozenset(
    "to cuda cpu half float double bfloat16 train eval requires_grad_ apply share_memory to_empty type xpu".split()
)
"""Methods of a module that return the module."""
_TENSOR_SAME = frozenset(
    "to cuda cpu half float double long int bool clone contiguous view reshape squeeze unsqueeze transpose permute "
    "expand repeat flatten detach requires_grad_ div mul add sub".split()
)
"""Methods of a tensor that return a tensor."""
_FACTORIES = frozenset(
    "arange as_tensor empty empty_like eye from_numpy full full_like linspace normal ones ones_like rand "
    "rand_like randint randn randn_like randperm tensor zeros zeros_like".split()
)
_PLAIN = frozenset(("torch.nn.Module",))
_FRAMEWORKS = re.compile(
    r"^(?:(?:pytorch_lightning|lightning|lightning\.pytorch)(?:\.core(?:\.\w+)?)?\.LightningModule"
    r"|(?:transformers|diffusers)(?:\.\w+)*\.(?:PreTrainedModel|ModelMixin))$"
)
_PRETRAINED = re.compile(r"^(?:transformers|diffusers|peft)\.(?:\w+\.)*(?:Auto\w*Model\w*|\w+Model|\w+For[A-Z]\w+)$")
_MAKERS = re.compile(
    r"^(?:torchvision\.models\.(?:\w+\.)*[a-z]\w*|timm\.create_model|segmentation_models_pytorch\.[A-Z]\w*)$"
)


@dataclass(frozen=True)
class Kind:
    """The kind of thing that an expression gives."""

    what: What
    cls: str | ast.ClassDef | None = None
    """Of a module: its class if it is in this file, else the qualified name; None if unknown."""
    item: Kind | None = None
    """Of many: the kind of each, if all are of one kind."""
    once: bool = False
    """Of many: whether they can be iterated over only once."""
    pairs: bool = False
    """Of many: whether they come as (name, thing)."""
    made: ast.expr | None = None
    """The call that creates it."""

    @property
    def module(self) -> bool:
        return self.what == "module"


def _unified(kinds: list[Kind | None]) -> Kind | None:
    first = kinds[0] if kinds else None
    if first is None or any(
        k is None or (k.what, k.once, k.pairs) != (first.what, first.once, first.pairs) for k in kinds
    ):
        return None
    present = [k for k in kinds if k is not None]
    item = _unified([k.item for k in present]) if first.what == "many" else None
    cls = first.cls if all(k.cls == first.cls for k in present) else None
    return Kind(first.what, cls, item, first.once, first.pairs, first.made if len(present) == 1 else None)


class Kinds:
    """The kinds of the expressions of one file."""

    def __init__(self, tree: Tree, names: Names) -> None:
        self.tree, self.names = tree, names
        self._attributes: dict[ast.ClassDef, dict[str, list[ast.expr | None]]] = {}
        self._modules: dict[ast.ClassDef, bool] = {}
        self._pending: set[ast.AST] = set()
        self._known: dict[ast.AST, Kind | None] = {}
        self._steps = 0

    # Classes

    def class_of(self, expression: ast.AST, depth: int = 0) -> ast.ClassDef | None:
        """Return the class of this file that an expression names, or None."""
        if isinstance(expression, ast.Name) and depth < _DEEPEST:
            bindings = self.tree.bindings(expression)
            if len(bindings) == 1:
                if isinstance(bindings[0], ast.ClassDef):
                    return bindings[0]
                parent = self.tree.parents.get(bindings[0])
                if isinstance(parent, ast.Assign) and bindings[0] in parent.targets:
                    return self.class_of(parent.value, depth + 1)
        return None

    def bases(self, cls: ast.ClassDef) -> list[ast.ClassDef | str]:
        """Return a class's bases: classes of this file or qualified names, empty for unknown ones."""
        plain = [b.value if isinstance(b, ast.Subscript) else b for b in cls.bases]
        return [self.class_of(base) or self.names.qualified(base) for base in plain]

    def is_module(self, cls: ast.ClassDef) -> bool:
        """Return True if the class is certainly an nn.Module."""
        if cls not in self._modules:
            self._modules[cls] = False  # a class cannot be its own base
            self._modules[cls] = any(
                self.is_module(b) if isinstance(b, ast.ClassDef) else _is_layer(b) or bool(_FRAMEWORKS.match(b))
                for b in self.bases(cls)
            )
        return self._modules[cls]

    def is_plain_module(self, cls: ast.ClassDef, depth: int = 0) -> bool:
        """Return True if all its bases are nn.Module or classes of this file."""
        bases = self.bases(cls)
        return (
            bool(bases)
            and depth < _DEEPEST
            and all(self.is_plain_module(b, depth + 1) if isinstance(b, ast.ClassDef) else b in _PLAIN for b in bases)
        )

    def lineage(self, cls: ast.ClassDef, depth: int = 0) -> list[ast.ClassDef]:
        """Return the class and its bases in this file."""
        classes = [cls]
        for base in self.bases(cls) if depth < _DEEPEST else ():
            if isinstance(base, ast.ClassDef) and base is not cls:
                classes += [c for c in self.lineage(base, depth + 1) if c not in classes]
        return classes

    def method(self, cls: ast.ClassDef, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """Return a method by its name, of the class or of a base in this file."""
        for owner in self.lineage(cls):
            for node in owner.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                    return node
        return None

    def attributes(self, cls: ast.ClassDef) -> dict[str, list[ast.expr | None]]:
        """Return the values that methods assign to the instances' attributes.

        Bases in this file count too. None is a value that is not written beside its name.
        """
        if cls not in self._attributes:
            values: dict[str, list[ast.expr | None]] = {}
            self._attributes[cls] = values
            for owner in self.lineage(cls):
                for method in owner.body:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                        if any(
                            isinstance(d, ast.Name) and d.id in ("property", "staticmethod")
                            for d in method.decorator_list
                        ):
                            values.setdefault(method.name, []).append(None)
                            continue
                        self._assigned_in(method, values)
                    elif isinstance(method, ast.Assign):
                        for target in method.targets:
                            if isinstance(target, ast.Name):
                                values.setdefault(target.id, []).append(method.value)
        return self._attributes[cls]

    def _assigned_in(self, method: ast.AST, values: dict[str, list[ast.expr | None]]) -> None:
        own = self_name(method)
        for node in ast.walk(method):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                if isinstance(node.value, ast.Name) and node.value.id == own:
                    values.setdefault(node.attr, []).append(self.value_given(node))

    def value_given(self, target: ast.AST) -> ast.expr | None:
        """Return the value that an assignment gives to a target, or None if it is not written whole."""
        parent = self.tree.parents.get(target)
        if isinstance(parent, ast.Assign) and target in parent.targets:
            return parent.value
        if isinstance(parent, ast.AnnAssign | ast.NamedExpr) and parent.target is target:
            return parent.value
        if isinstance(parent, ast.Tuple | ast.List):
            outer = self.tree.parents.get(parent)
            if (
                isinstance(outer, ast.Assign)
                and parent in outer.targets
                and isinstance(outer.value, ast.Tuple | ast.List)
            ):
                elements = outer.value.elts
                if len(elements) == len(parent.elts) and not any(
                    isinstance(e, ast.Starred) for e in [*elements, *parent.elts]
                ):
                    return elements[parent.elts.index(target)]  # type: ignore[arg-type]
        return None

    # Expressions

    def of(self, expression: ast.AST | None, depth: int = 0) -> Kind | None:
        """Return what kind of thing an expression gives, or None if it is unknown."""
        if expression is None:
            return None
        if depth == 0:
            if expression in self._known:
                return self._known[expression]
            self._steps = 0
        self._steps += 1
        if depth > _DEEPEST or self._steps > _MOST_STEPS or expression in self._pending:
            return None
        self._pending.add(expression)
        try:
            kind = self._of(expression, depth + 1)
        finally:
            self._pending.discard(expression)
        if depth == 0 and not self._pending:
            self._known[expression] = kind
        return kind

    def _of(self, node: ast.AST, depth: int) -> Kind | None:
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.Name):
            return self._name(node, depth)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, depth)
        if isinstance(node, ast.Subscript):
            return self._element(self.of(node.value, depth), node.slice, depth)
        if isinstance(node, ast.IfExp):
            return _unified([self.of(node.body, depth), self.of(node.orelse, depth)])
        if isinstance(node, ast.BoolOp):
            return _unified([self.of(value, depth) for value in node.values])
        if isinstance(node, ast.NamedExpr):
            return self.of(node.value, depth)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return Kind("many", item=_unified([self.of(e, depth) for e in node.elts]))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            return Kind("many", item=self.of(node.elt, depth), once=isinstance(node, ast.GeneratorExp))
        if isinstance(node, ast.Constant | ast.Dict | ast.DictComp | ast.Lambda | ast.JoinedStr):
            return Kind("other")
        return None

    def _call(self, node: ast.Call, depth: int) -> Kind | None:
        function = node.func
        full = self.names.qualified(function)
        if full:
            return self._imported(full, node, depth)
        cls = self.class_of(function)
        if cls is not None:
            return Kind("module", cls, made=node) if self.is_module(cls) else None
        if isinstance(function, ast.Attribute):
            return self._method(node, function, depth)
        if isinstance(function, ast.Name) and not self.tree.bindings(function) and node.args:
            return self._builtin(function.id, node, depth)
        return None

    def _imported(self, full: str, node: ast.Call, depth: int) -> Kind | None:
        if _is_layer(full):
            return Kind("module", full, made=node)
        if full == "torch.nn.Parameter":
            return Kind("parameter", made=node)
        home, _, name = full.rpartition(".")
        if home == "torch.optim" and name[:1].isupper():
            return Kind("optimizer", full, made=node)
        if (home == "torch" and name in _FACTORIES) or full == "torch.nn.Buffer":
            return Kind("tensor", made=node)
        if name in ("from_pretrained", "from_config") and _PRETRAINED.match(home):
            return Kind("module", home, made=node)
        if _MAKERS.match(full) and not name.startswith(("get_", "list_")):
            return Kind("module", made=node)
        if full in ("copy.deepcopy", "copy.copy") and node.args:
            return self.of(node.args[0], depth)
        if full in ("torch.nn.DataParallel", "torch.compile") and node.args:
            return self.of(node.args[0], depth)
        if full == "itertools.chain" and node.args:
            parts = [self.of(a, depth) for a in node.args]
            items = [p.item if p is not None and p.what == "many" else None for p in parts]
            return Kind("many", item=_unified(items), once=True)
        return None

    def _method(self, node: ast.Call, function: ast.Attribute, depth: int) -> Kind | None:
        base = self.of(function.value, depth)
        name = function.attr
        plain = not node.args and not node.keywords
        if name in ("parameters", "named_parameters") and (base is None or base.module):
            if plain or (base is not None and base.module):
                return Kind("many", item=Kind("parameter"), once=True, pairs=name != "parameters")
        if name in ("modules", "named_modules") and plain and (base is None or base.module):
            return Kind("many", item=Kind("module"), once=True, pairs=name != "modules")
        if base is None:
            return None
        if base.module and name in ("children", "named_children"):
            return Kind("many", item=Kind("module"), once=True, pairs=name != "children")
        if base.module and name in _SAME:
            return Kind("module", base.cls, made=base.made)
        if base.what == "tensor" and name in _TENSOR_SAME:
            return Kind("tensor")
        return None

    def _builtin(self, name: str, node: ast.Call, depth: int) -> Kind | None:
        last = self.of(node.args[-1], depth)
        if name in ("list", "tuple", "reversed", "sorted", "set") and last is not None and last.what == "many":
            return Kind("many", item=last.item, pairs=last.pairs, once=name == "reversed")
        if name == "filter" and len(node.args) == 2:
            item = last.item if last is not None and last.what == "many" else None
            return Kind("many", item=item, pairs=bool(last and last.pairs), once=True)
        if name == "map":
            return Kind("many", once=True)
        if name == "enumerate":
            first = self.of(node.args[0], depth)
            if first is not None and first.what == "many":
                return Kind("many", item=None if first.pairs else first.item, once=True, pairs=True)
            item = self.element(first)
            return Kind("many", item=item, once=True, pairs=True) if item else None
        return None

    def _name(self, node: ast.Name, depth: int) -> Kind | None:
        return _unified([self._bound(binding, node.id, depth) for binding in self.tree.bindings(node)])

    def _bound(self, binding: ast.AST, name: str, depth: int) -> Kind | None:
        if isinstance(binding, ast.arg):
            method = self.tree.parents.get(self.tree.parents.get(binding, binding))
            owner = self.tree.owner(method) if method is not None else None
            if owner is not None and self_name(method or owner) == name and not getattr(method, "decorator_list", None):
                return Kind("module", owner) if self.is_module(owner) else None
            return self._annotated(binding.annotation)
        if not isinstance(binding, ast.Name):
            return None
        value = self.value_given(binding)
        if value is not None:
            return self.of(value, depth)
        return self._loop_variable(binding, depth)

    def _loop_variable(self, binding: ast.Name, depth: int) -> Kind | None:
        parent = self.tree.parents.get(binding)
        target: ast.AST = binding
        position = 0
        if isinstance(parent, ast.Tuple):
            position = parent.elts.index(binding)
            target, parent = parent, self.tree.parents.get(parent)
        if not isinstance(parent, ast.For | ast.AsyncFor | ast.comprehension) or parent.target is not target:
            return None
        over = self.of(parent.iter, depth)
        if over is None:
            return None
        if isinstance(target, ast.Tuple):
            return over.item if over.what == "many" and over.pairs and position == 1 and len(target.elts) == 2 else None
        return None if over.pairs else self.element(over)

    def element(self, kind: Kind | None) -> Kind | None:
        """Return what kind of thing an iteration over another kind gives."""
        if kind is None:
            return None
        if kind.what == "many":
            return kind.item
        if kind.module and kind.cls in ("torch.nn.ModuleList", "torch.nn.Sequential"):
            return Kind("module")
        return None

    def _element(self, kind: Kind | None, index: ast.expr, depth: int) -> Kind | None:
        if kind is None:
            return None
        if kind.module and kind.cls in ("torch.nn.ModuleList", "torch.nn.Sequential", "torch.nn.ModuleDict"):
            creation = kind.made
            if isinstance(creation, ast.Call) and kind.cls == "torch.nn.Sequential" and isinstance(index, ast.Constant):
                if isinstance(index.value, int) and not any(isinstance(a, ast.Starred) for a in creation.args):
                    if -len(creation.args) <= index.value < len(creation.args):
                        return self.of(creation.args[index.value], depth) or Kind("module")
            if isinstance(index, ast.Slice):
                return Kind("module", kind.cls)
            return Kind("module")
        if kind.what == "tensor":
            return Kind("tensor")
        return kind.item if kind.what == "many" and not kind.pairs and not isinstance(index, ast.Slice) else None

    def _attribute(self, node: ast.Attribute, depth: int) -> Kind | None:
        base = self.of(node.value, depth)
        if base is None or not base.module:
            return None
        if isinstance(base.cls, ast.ClassDef):
            values = [
                v for v in self.attributes(base.cls).get(node.attr, [])
                if not (isinstance(v, ast.Constant) and v.value is None)
            ]  # fmt: skip
            return _unified([self.of(v, depth) for v in values])
        if isinstance(base.cls, str) and base.cls.startswith("torch.nn.") and node.attr in ("weight", "bias"):
            return Kind("parameter")
        return None

    def _annotated(self, annotation: ast.expr | None) -> Kind | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            return None
        if annotation is None:
            return None
        cls = self.class_of(annotation)
        if cls is not None:
            return Kind("module", cls) if self.is_module(cls) else None
        full = self.names.qualified(annotation)
        if full == "torch.Tensor":
            return Kind("tensor")
        if full == "torch.nn.Parameter":
            return Kind("parameter")
        return Kind("module", full) if _is_layer(full) else None


def _is_layer(full: str) -> bool:
    home, _, name = full.rpartition(".")
    return home == "torch.nn" and name[:1].isupper() and name not in _NOT_MODULES
