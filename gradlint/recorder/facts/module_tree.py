"""The parameter and module tables: names as the user knows them, whatever wraps the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gradlint.recorder.hooks.log import HookLog
from gradlint.traces.events import ChildRegistration, Event, ParameterRegistration
from gradlint.traces.ids import NO_MODULE, NO_SITE, ModuleIndex, ParameterIndex, ParameterKey, SiteId
from gradlint.traces.sites import class_is_project

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
             "FullyShardedDataParallel": "_fsdp_wrapped_module", "AveragedModel": "module",
             "CheckpointWrapper": "_checkpoint_wrapped_module",
             "OffloadWrapper": "_checkpoint_wrapped_module"}  # fmt: skip
"""Classes of torch that hold the user's model under an attribute which is no part of its names."""
_SPELLINGS = 16
"""Spellings of one name that are kept; three wrappers around each other have eight."""


def is_wrapper(module: nn.Module) -> bool:
    """Return True if a module of torch's only wraps the user's."""
    return type(module).__name__ in _WRAPPERS and type(module).__module__.startswith("torch")


class Place:
    """A module at one of its places in the tree."""

    __slots__ = ("fqn", "module", "parent", "project", "spellings")

    def __init__(self, fqn: str, module: nn.Module, parent: int, project: bool, spellings: tuple[str, ...]) -> None:
        self.fqn = fqn
        self.spellings = spellings
        """Its name with the attributes of wrappers, that of `named_modules()` last; empty without wrappers."""
        self.module = module
        self.parent = parent
        """Identity of the module that holds it; 0 for a root."""
        self.project = project
        """True if it or a module above it, below the root, is of a class of the user's own."""


def places(roots: Mapping[str, nn.Module]) -> list[Place]:
    """Return every place of every module, parents first.

    A shared module comes once for each of its places.
    """
    return [p for key, root in roots.items() for p in _places(root, key, class_is_project(type(root)), top=True)]


def _places(module: nn.Module, fqn: str, project: bool, top: bool = False) -> list[Place]:
    places: list[Place] = []
    pending: list[tuple[nn.Module, str, tuple[str, ...], int, bool, tuple[int, ...], bool]]
    pending = [(module, fqn, (), 0, project, (), top)]
    while pending:
        module, fqn, spellings, parent, project, above, top = pending.pop()
        key = id(module)
        if key in above:
            continue  # a module that holds itself
        places.append(Place(fqn, module, parent, project, spellings))
        children = module._modules
        if not children:
            continue
        hidden = _WRAPPERS[type(module).__name__] if is_wrapper(module) else None
        inside = (*above, key)
        for name, child in reversed(children.items()):
            if child is not None:
                inner = fqn if name == hidden else f"{fqn}.{name}" if fqn else name
                others = spellings and tuple(f"{spelling}.{name}" for spelling in spellings)
                if name == hidden:
                    others = (*spellings, f"{fqn}.{name}" if fqn else name, *others)[-_SPELLINGS:]
                owned = class_is_project(type(child)) or (project and not top)
                pending.append((child, inner, others, key, owned, inside, top and name == hidden))
    return places


class NamedParameter:
    """A parameter and its names in the tree."""

    __slots__ = ("in_tree", "index", "module", "names", "project", "spellings", "tensor")

    def __init__(self, tensor: Tensor, index: ParameterIndex, module: ModuleIndex, in_tree: bool) -> None:
        self.tensor = tensor
        self.index = index
        self.module = module
        """The module that registers it first."""
        self.in_tree = in_tree
        self.names: list[str] = []
        self.spellings: dict[str, tuple[str, ...]] = {}
        """Name → the same with the attributes of wrappers."""
        self.project = False
        """True if it is in a module, below the root, of a class of the user's own."""

    @property
    def key(self) -> ParameterKey:
        """The identity of its tensor."""
        return ParameterKey(id(self.tensor))


@dataclass(frozen=True)
class NamedModule:
    """A module and its place in the tree."""

    fqn: str
    number: ModuleIndex
    parent: ModuleIndex
    module: nn.Module
    in_tree: bool
    registered_at: SiteId = NO_SITE
    parameters: tuple[ParameterIndex, ...] = ()
    """Indices of the parameters registered by itself."""
    was_seen: bool = True
    """True if it is in the model or ran; False for one that was only built."""
    spellings: tuple[str, ...] = ()
    """Its name with the attributes of wrappers."""


def name_all(
    roots: Mapping[str, nn.Module],
    outside: list[nn.Module],
    log: HookLog,
    events: Sequence[Event],
    unregistered: Sequence[tuple[str, nn.Module, bool]],
    by_registration: bool = False,
) -> tuple[list[NamedModule], list[NamedParameter]]:
    """Return the modules of a recording by number, and the parameters of its setup.

    `outside` are modules that ran and are in no root; their parameters are named by the attribute that holds them
    (`unregistered`: its name, the module, whether its holder is of the user's own class), else after their class. With
    `by_registration`, a parameter of several roots has the name first that user code registered first.
    """
    numbers = log.numbers
    modules: dict[ModuleIndex, NamedModule] = {}
    parameters: dict[int, NamedParameter] = {}
    registered = {(e.module, e.child): e.site for e in events if isinstance(e, ChildRegistration)}

    def visit(place: Place, in_tree: bool) -> None:
        module = place.module
        number = numbers[id(module)]
        own: list[ParameterIndex] = []
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            _, tensor = log.shards.get(id(parameter), (parameter, parameter))
            named = parameters.get(id(tensor))
            if named is None:
                named = parameters[id(tensor)] = NamedParameter(
                    tensor, ParameterIndex(len(parameters)), number, in_tree
                )
            named.project = named.project or place.project
            if in_tree or not named.in_tree:  # what only wraps a part of the model gives it no second name
                named.names.append(full := f"{place.fqn}.{name}" if place.fqn else name)
                if place.spellings:
                    named.spellings[full] = tuple(f"{spelling}.{name}" for spelling in place.spellings)
            own.append(named.index)
        if number not in modules:
            parent = numbers.get(place.parent, NO_MODULE)
            site = registered.get((parent, number), NO_SITE)
            modules[number] = NamedModule(
                place.fqn, number, parent, module, in_tree, site, tuple(own), spellings=place.spellings
            )

    for place in places(roots):
        visit(place, True)
    for fqn, module, project in unregistered:
        if numbers[id(module)] not in modules:
            for place in _places(module, fqn, project):
                visit(place, False)
    for module in outside:
        if numbers[id(module)] not in modules:
            for place in _places(module, type(module).__name__, class_is_project(type(module))):
                visit(place, False)
    for module in log.modules:  # built, and neither in the model nor run
        number = numbers[id(module)]
        if number not in modules:
            modules[number] = NamedModule(f"?{type(module).__name__}", number, NO_MODULE, module, False, was_seen=False)
    if by_registration and len(roots) > 1:
        since = _registered_since(roots, numbers, events)
        for named in parameters.values():
            if len({name.partition(".")[0] for name in named.names}) > 1:
                named.names.sort(key=lambda name: since.get(name, 0))
    return [modules[n] for n in sorted(modules)], list(parameters.values())


def _registered_since(
    roots: Mapping[str, nn.Module], numbers: Mapping[int, ModuleIndex], events: Sequence[Event]
) -> dict[str, int]:
    """Return the event since which a parameter has a name, by the name.

    The number is 0 if the registration was not seen.
    """
    children = {(e.module, e.child): e.number for e in events if isinstance(e, ChildRegistration)}
    own = {(e.module, e.parameter): e.number for e in events if isinstance(e, ParameterRegistration)}
    since: dict[str, int] = {}
    for place in places(roots):
        number, parent = numbers[id(place.module)], numbers.get(place.parent, NO_MODULE)
        around = since.get(place.fqn.rpartition(".")[0], 0)
        since[place.fqn] = max(around, children.get((parent, number), 0))
        for name, tensor in place.module._parameters.items():
            registered = own.get((number, ParameterKey(id(tensor))), 0)
            since[f"{place.fqn}.{name}"] = max(since[place.fqn], registered)
    return since
