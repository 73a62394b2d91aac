"""The parameter and module tables: names as the user knows them, whatever wraps the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlint.recorder.facts.layers import Classes, add_layer_facts, flags_of
from gradlint.traces.events import ChildRegistration, Event
from gradlint.traces.ids import NO_MODULE, NO_SITE, ModuleIndex, ParameterIndex, ParameterKey
from gradlint.traces.sites import class_is_project
from gradlint.traces.trace import Module, Parameter

if TYPE_CHECKING:
    from gradlint.recorder.facts.unregistered import Find

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
             "FullyShardedDataParallel": "_fsdp_wrapped_module", "AveragedModel": "module"}  # fmt: skip
"""Classes of torch that hold the user's model under an attribute which is no part of its names."""


class Place:
    """A module at one of its places in the tree."""

    __slots__ = ("fqn", "module", "parent", "project")

    def __init__(self, fqn: str, module: nn.Module, parent: int, project: bool) -> None:
        self.fqn = fqn
        self.module = module
        self.parent = parent
        """Identity of the module that holds it; 0 for a root."""
        self.project = project
        """Whether it or a module above it, below the root, is of a class of the user's own."""


def places(roots: Mapping[str, nn.Module]) -> list[Place]:
    """Every place of every module, parents first; a shared module comes once for each of its places."""
    return [p for key, root in roots.items() for p in _places(root, key, class_is_project(type(root)), top=True)]


def _places(module: nn.Module, fqn: str, project: bool, top: bool = False) -> list[Place]:
    found: list[Place] = []
    pending: list[tuple[nn.Module, str, int, bool, tuple[int, ...], bool]] = [(module, fqn, 0, project, (), top)]
    while pending:
        module, fqn, parent, project, above, top = pending.pop()
        key = id(module)
        if key in above:
            continue  # a module that holds itself
        found.append(Place(fqn, module, parent, project))
        children = module._modules
        if not children:
            continue
        hidden = _WRAPPERS.get(type(module).__name__) if type(module).__module__.startswith("torch") else None
        inside = (*above, key)
        for name, child in reversed(children.items()):
            if child is not None:
                inner = fqn if name == hidden else f"{fqn}.{name}" if fqn else name
                owned = class_is_project(type(child)) or (project and not top)
                pending.append((child, inner, key, owned, inside, top and name == hidden))
    return found


def tables(
    roots: Mapping[str, nn.Module],
    outside: list[nn.Module],
    numbers: Mapping[int, ModuleIndex],
    modules_seen: list[nn.Module],
    events: list[Event],
    held: Sequence[Find] = (),
) -> tuple[list[Module], list[Parameter]]:
    """The module table (indexed by the log's numbers) and the parameter table of a set-up.

    `outside` are modules that ran and are in no root; their parameters are named by the attribute that holds them
    (`held`), else after their class.
    """
    classes = Classes()
    rows: dict[ModuleIndex, Module] = {}
    parameters: dict[int, Parameter] = {}
    names: dict[int, list[str]] = {}
    registered = {(e.module, e.child): e.site for e in events if isinstance(e, ChildRegistration)}

    def visit(place: Place, in_tree: bool) -> None:
        module = place.module
        number = numbers[id(module)]
        first = number not in rows
        if first:
            parent = numbers.get(place.parent, NO_MODULE)
            rows[number] = Module(
                fqn=place.fqn,
                number=number,
                parent=parent,
                type=classes.describe(type(module)),
                training=bool(module.training),
                in_tree=in_tree,
                registered_at=registered.get((parent, number), NO_SITE),
                module=module,
            )
        own: list[ParameterIndex] = []
        for name, tensor in module._parameters.items():
            if tensor is None:
                continue
            fqn = f"{place.fqn}.{name}" if place.fqn else name
            known = parameters.get(id(tensor))
            if known is None:
                parameters[id(tensor)] = known = Parameter(
                    fqn=fqn,
                    aliases=(),
                    key=ParameterKey(id(tensor)),
                    index=ParameterIndex(len(parameters)),
                    requires_grad=bool(tensor.requires_grad),
                    shape=(),
                    numel=0,
                    bytes=0,
                    groups=(),
                    module=number,
                    project=place.project,
                    in_tree=in_tree,
                    tensor=tensor,
                )
            known.project = known.project or place.project
            names.setdefault(id(tensor), []).append(fqn)
            own.append(known.index)
        if first:
            rows[number].parameters = tuple(own)

    for place in places(roots):
        visit(place, True)
    for find in held:
        if numbers[id(find.thing)] not in rows:
            for place in _places(find.thing, find.fqn, class_is_project(type(find.holder))):
                visit(place, False)
    for module in outside:
        if numbers[id(module)] not in rows:
            for place in _places(module, type(module).__name__, class_is_project(type(module))):
                visit(place, False)
    for module in modules_seen:  # built, and neither in the model nor run
        number = numbers[id(module)]
        if number not in rows:
            rows[number] = Module(
                f"?{type(module).__name__}",
                number,
                NO_MODULE,
                classes.describe(type(module)),
                bool(getattr(module, "training", False)),
                False,
                NO_SITE,
            )
    for row in rows.values():
        if row.module is not None:
            add_layer_facts(row, row.module, numbers)
    for key, parameter in parameters.items():
        parameter.aliases = tuple(dict.fromkeys(names[key]))
        parameter.requires_grad_after = bool(parameter.tensor.requires_grad)
        parameter.dtype = str(parameter.tensor.dtype).removeprefix("torch.")
        parameter.flags = flags_of(parameter.tensor)
        parameter.has_hook = bool(parameter.tensor._backward_hooks)
        measure(parameter)
    return [rows[n] for n in sorted(rows)], list(parameters.values())


def measure(parameter: Parameter) -> None:
    """Fill in shape and size; a lazy parameter that no forward has initialised has none."""
    tensor: Any = parameter.tensor
    if is_lazy(tensor):
        return
    parameter.shape = tuple(tensor.shape)
    parameter.numel = tensor.numel()
    parameter.bytes = parameter.numel * tensor.element_size()


def buffers(roots: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The buffers by canonical name."""
    found: dict[str, Tensor] = {}
    for place in places(roots):
        for name, tensor in place.module._buffers.items():
            if isinstance(tensor, Tensor):
                found[f"{place.fqn}.{name}" if place.fqn else name] = tensor
    return found
