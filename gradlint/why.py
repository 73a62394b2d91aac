"""Everything known about single parameters: state, history, optimizer, the way to the loss."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field

from gradlint.engine import Options, record_target
from gradlint.findings import Location
from gradlint.flow import Flow, region_location
from gradlint.naming import count
from gradlint.provenance import ancestors
from gradlint.trace import Op, Parameter, Trace


@dataclass(frozen=True)
class Explanation:
    """Why one parameter trains, or does not."""

    parameter: str
    state: str
    """One line: what becomes of it."""
    lines: list[tuple[str, Location | None]] = field(default_factory=list)
    """The reasons in order, each with the place it speaks of."""


def explain(target: str, pattern: str, options: Options | None = None) -> list[Explanation]:
    """Explain the parameters of a target that a glob matches by any of their names, in the model's order.

    Raises:
        TargetError: the target could not be recorded.
    """
    with record_target(target, options or Options()) as trace:
        flow = Flow(trace)
        return [
            _explain(trace, flow, parameter)
            for parameter in trace.parameters
            if any(fnmatch.fnmatchcase(name, pattern) for name in parameter.aliases)
        ]


def _explain(trace: Trace, flow: Flow, parameter: Parameter) -> Explanation:
    lines: list[tuple[str, Location | None]] = []
    shape = "x".join(map(str, parameter.shape)) or "scalar"
    lines.append((f"{shape}, {count(parameter.numel)} scalars", None))
    if len(parameter.aliases) > 1:
        lines.append(("also named " + ", ".join(parameter.aliases[1:]), None))
    lines += _history(trace, parameter)
    lines += _optimizer(trace, parameter)
    lines += _way(trace, flow, parameter)
    return Explanation(parameter.fqn, _state(trace, flow, parameter), lines)


def _state(trace: Trace, flow: Flow, parameter: Parameter) -> str:
    state = flow.state(parameter)
    if state == "frozen":
        return "frozen: requires_grad is False"
    if state == "reached":
        if trace.optimizers and not parameter.groups:
            return "does not train: gradient reaches it, and no optimizer holds it"
        rates = [g.lr for o, i in parameter.groups for g in [trace.optimizers[o].groups[i]]]
        if rates and all(rate == 0 and not _scheduled(trace, parameter) for rate in rates):
            return "does not train: its learning rate is 0"
        return "trains: gradient reaches it" + ("" if parameter.groups else " (no optimizer given)")
    return {
        "starved": "starved: the loss depends on it, and no gradient returns",
        "unused": "unused: the loss does not depend on it",
        "undecided": f"undecided: its values left torch, and {flow.why_undecided}",
    }.get(state, "not judged: " + _unjudged(trace, parameter))


def _scheduled(trace: Trace, parameter: Parameter) -> bool:
    return any(trace.optimizers[o].groups[i].scheduled for o, i in parameter.groups)


def _unjudged(trace: Trace, parameter: Parameter) -> str:
    if parameter.written:
        return "the forward itself writes its value"
    if trace.optimizers and not parameter.groups:
        return "no optimizer holds it, and this loss does not reach it"
    if not trace.roots:
        return "nothing was run"
    return "this loss does not train what its optimizer holds"


def _history(trace: Trace, parameter: Parameter) -> list[tuple[str, Location | None]]:
    lines: list[tuple[str, Location | None]] = []
    said: set[tuple[str, Location | None]] = set()
    for event in parameter.history:
        text = {
            "register": "registered here",
            "freeze": "frozen here",
            "thaw": "set trainable here",
            "write": f"written to here ({event.data.get('name', '')})",
        }[event.kind]
        where = trace.location(event.site)
        if where is not None and (text, where) not in said:
            said.add((text, where))
            lines.append((text, where))
    if not lines:
        module = trace.modules[parameter.module]
        where = trace.location(module.registered_at)
        if where is not None:
            lines.append(("its module was put into the model here", where))
    if parameter.twin_of:
        names = ", ".join(trace.parameters[i].fqn for i in sorted(parameter.twin_of)[:3])
        lines.append((f"its value was copied from {names}", None))
    return lines


def _optimizer(trace: Trace, parameter: Parameter) -> list[tuple[str, Location | None]]:
    lines: list[tuple[str, Location | None]] = []
    for number, index in parameter.groups:
        optimizer = trace.optimizers[number]
        group = optimizer.groups[index]
        rate = "" if group.lr is None else f", lr {group.lr:g}"
        lines.append((f"held by {optimizer.type}, group {index}{rate}", trace.location(group.site)))
    if trace.optimizers and not lines:
        lines.append(("held by no optimizer", None))
    return lines


def _way(trace: Trace, flow: Flow, parameter: Parameter) -> list[tuple[str, Location | None]]:
    lines: list[tuple[str, Location | None]] = []
    readers = flow.readers(parameter)
    if not readers:
        lines.append(("no operation of the forward reads it", None))
        return lines
    seen: set[tuple[str, Location | None]] = set()
    for number in _path(trace, flow, parameter, readers[0]):
        op = trace.ops[number]
        where = trace.location(op.site)
        text = f"{op.name}" + (f" in {module.fqn}" if (module := trace.module_of(op)) and module.fqn else "")
        if (text, where) not in seen:
            seen.add((text, where))
            lines.append((text, where))
    for cut in flow.cuts:
        if parameter in cut.starved:
            lines.append((f"gradient stops here ({cut.name})", cut.location))
    for number in readers:
        region = trace.ops[number].region
        if region >= 0 and flow.state(parameter) == "frozen":
            lines.append(("runs without grad mode", region_location(trace, trace.events[region])))
            break
    dropped = flow.dropped_at(parameter) if flow.state(parameter) == "unused" else None
    if dropped is not None:
        lines.append(("what is computed from it is dropped here", trace.location(dropped.site)))
    return lines


def _path(trace: Trace, flow: Flow, parameter: Parameter, first: int, limit: int = 12) -> list[int]:
    """Ops on one way from a parameter to the loss: the first ones and the last, at most `limit`."""
    wanted = ancestors(trace.ops, trace.roots)
    current = {v for v, i in trace.owners.items() if i == parameter.index}
    path: list[int] = []
    following: dict[int, list[int]] = {}
    for number in range(first, len(trace.ops)):
        for value in trace.ops[number].inputs:
            following.setdefault(value, []).append(number)

    def step(values: set[int], after: int) -> int | None:
        found = [n for v in values for n in following.get(v, ()) if n > after and _leads(trace.ops[n], wanted)]
        return min(found, default=None)

    number = step(current, first - 1)
    while number is not None:
        path.append(number)
        number = step(set(trace.ops[number].outputs), number)
    return path if len(path) <= limit else [*path[: limit - 3], *path[-3:]]


def _leads(op: Op, wanted: set[int]) -> bool:
    return any(o in wanted for o in op.outputs)
