"""GL113 load-without-effect."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Sequence

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, SourceModule, Trace
from gradlint.flow import LostLoad, ignored_loads, left_out_blocks, lost_loads, own_loads, pretrained_loads
from gradlint.rulekit import executed_functions, inflect
from gradlint.source import Function, call_and_file_at, defaults, last_name, value_of
from gradlint.traces import IgnoredState, SiteId


class LoadWithoutEffect(Rule):
    """A `load_state_dict()` from which no value reaches training.

    ## What it does
    Finds calls of `load_state_dict()` that leave the model as it is: none of the state's names is the model's, or the
    state has only the model's own values. Finds loads too whose values are lost before training: the loaded layers are
    replaced by new ones, or initialised again. A `from_pretrained()` of a library that finds no value for any parameter
    is an error too. Info: a load gives values to some blocks of a stack and leaves other, equal ones as they were.

    ## Why it is bad
    With `strict=False`, torch loads the names that match and ignores the rest, even if that is everything. The model
    trains from random values, and nothing says so.

    ## Example
    ```python
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    def build():
        state = {f"module.{k}": v for k, v in Classifier().state_dict().items()}  # saved from DistributedDataParallel
        model = Classifier()
        model.load_state_dict(state, strict=False)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    def build():
        state = {f"module.{k}": v for k, v in Classifier().state_dict().items()}
        model = Classifier()
        model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    A load of the model's own values is reported only if a function that ran adds other entries to a state. A load of
    part of the model is not reported, nor one that another load of the same module makes up for. Loads that
    do not call `load_state_dict()` of the module are not followed.

    ## References
    https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict
    """

    code = "GL113"
    name = "load-without-effect"
    severity = Severity.ERROR
    yields_to = frozenset({"GL109", "GL510"})

    MESSAGE = (
        "{call}() loads nothing: the state has names like {name!r} where the model has {own_name!r}. "
        "{parameters} {keep} initial values."
    )
    MESSAGE_UNRELATED = (
        "{call}() loads nothing: no name in the state, such as {name!r}, is one of the model's, such as "
        "{own_name!r}. {parameters} {keep} initial values."
    )
    MESSAGE_NESTED = (
        "{call}() loads nothing: the state holds the model's values under {nested!r}. "
        "{parameters} {keep} initial values."
    )
    MESSAGE_OWN = "{call}() copies the model's own values onto themselves: it loads nothing into {parameters}."
    MESSAGE_REPLACED = "{call}() has no effect: {place} replaces the loaded {parameters} by {ones}."
    MESSAGE_OVERWRITTEN = "{call}() has no effect: {place} initialises the loaded {parameters} again."
    MESSAGE_PRETRAINED = "from_pretrained() loads nothing: {parameters} {keep} initial values."
    MESSAGE_PART = "{parameters} {keep} initial values: this load has values for the equal blocks beside {them} only."
    FIX_PRETRAINED = (
        "Compare the names in the checkpoint with the model's: output_loading_info=True returns those that are missing "
        "and unexpected. If random values are meant, make the model from its config."
    )
    FIX_PART = "Load a checkpoint with as many blocks, or compare its names with the model's."
    RELATED_REPLACED = "replaced here, after the load"
    RELATED_OVERWRITTEN = "initialised here, after the load"
    FIX = "{changes} each name of the state, and check unexpected_keys of the result."
    FIX_UNRELATED = "Rename the state's entries to the model's names, and check unexpected_keys of the result."
    FIX_NESTED = "Load state[{nested!r}]."
    FIX_OWN = "Compare the names and shapes in the checkpoint with model.state_dict(): none match."
    FIX_LOST = "Load last, for example by model.load_state_dict(), after all layers are in place and initialised."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for load, parameters in ignored_loads(trace):
            assert load.ignored is not None
            message, fix = self._mismatch(load.ignored)
            fields = {"name": load.ignored.name, "own_name": load.ignored.own_name, "nested": load.ignored.nested}
            keep = inflect(parameters, "keep")
            text = context.fill(message, parameters, call=_call(trace, load.site), keep=keep, **fields)
            yield self._finding(context, load.site, text, parameters, fix)
        for load, parameters in own_loads(trace) if any(map(_adds_to_state, executed_functions(trace))) else ():
            if left := context.unreported(self, parameters):
                text = context.fill(self.MESSAGE_OWN, left, call=_call(trace, load.site))
                yield self._finding(context, load.site, text, left, self.FIX_OWN, Severity.WARNING)
        for made in pretrained_loads(trace):
            is_meant = made.loaded or made.from_nothing or _names_no_state(trace, made.site)
            if not is_meant and any(len(p.shape) > 1 for p in made.initialised):
                keep = inflect(made.initialised, "keep")
                text = context.fill(self.MESSAGE_PRETRAINED, made.initialised, keep=keep)
                yield self._finding(context, made.site, text, made.initialised, self.FIX_PRETRAINED)
        for site, blocks in left_out_blocks(trace):
            text = context.fill(self.MESSAGE_PART, blocks, keep=inflect(blocks, "keep"))
            yield self._finding(context, site, text, blocks, self.FIX_PART, Severity.INFO)
        for _, lost in context.by_place(lost_loads(trace), lambda lost: lost.load.site):
            yield self._lost(context, lost)

    def _mismatch(self, state: IgnoredState) -> tuple[str, str]:
        """Return the templates of message and fix for a state that was ignored."""
        if state.nested:
            return self.MESSAGE_NESTED, self.FIX_NESTED.format(nested=state.nested)
        if state.renaming is None:
            return self.MESSAGE_UNRELATED, self.FIX_UNRELATED
        removed, added = state.renaming
        changes = [f"remove {removed!r} from"] * bool(removed) + [f"add {added!r} to"] * bool(added)
        text = " and ".join(changes)
        return self.MESSAGE, self.FIX.format(changes=text[0].upper() + text[1:])

    def _lost(self, context: Context, lost: Sequence[LostLoad]) -> Finding:
        parameters = context.trace.with_keys({p.key for one in lost for p in one.parameters})
        last = lost[-1]
        template = self.MESSAGE_REPLACED if last.is_replaced else self.MESSAGE_OVERWRITTEN
        text = context.fill(
            template,
            parameters,
            call=_call(context.trace, last.load.site),
            place=context.place(last.lost_by),
            ones="a new one" if len(parameters) == 1 else "new ones",
        )
        why = context.related(self.RELATED_REPLACED if last.is_replaced else self.RELATED_OVERWRITTEN, last.lost_by)
        callers = context.callers(last.lost_by.site, limit=1)
        return context.finding(
            self, text, at=last.load.site, parameters=parameters, related=[why, *callers], fix=Fix(self.FIX_LOST)
        )

    def _finding(
        self,
        context: Context,
        site: SiteId,
        message: str,
        parameters: Sequence[Parameter],
        fix: str,
        severity: Severity | None = None,
    ) -> Finding:
        return context.finding(
            self,
            message,
            at=site,
            parameters=parameters,
            related=context.callers(site, limit=1),
            fix=Fix(fix),
            severity=severity,
        )


def _names_no_state(trace: Trace, site: SiteId) -> bool:
    """Return True if a call of ``from_pretrained()`` is given None or an empty dict to load."""
    frame = trace.frame(site)
    assert frame is not None  # user code calls it
    match call_and_file_at(frame.path, frame.location, ("from_pretrained",)):
        case module, call:
            given = {k.arg: k.value for k in call.keywords}
            name = next(iter(call.args), given.get("pretrained_model_name_or_path"))
            return _is_nothing(module, given.get("state_dict", name))
    return False


def _is_nothing(module: SourceModule, state: ast.expr | None) -> bool:
    """Return True if an argument is None or an empty dict, or may be so by default."""
    match state:
        case ast.Constant(value=None) | ast.Dict(keys=[]):
            return True
        case ast.Call(func=constructor, args=[], keywords=[]):
            return last_name(constructor) in ("dict", "OrderedDict")
        case ast.Name():
            match module.tree.bindings(state):
                case [ast.arg() as argument]:
                    _, function, *_ = module.tree.above(argument)
                    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                    return _is_nothing(module, defaults(function).get(argument.arg))
            return _is_nothing(module, value_of(module, state))
    return False


def _call(trace: Trace, site: SiteId) -> str:
    """Return the name of the function that user code called to load a state."""
    name = "load_state_dict"
    for frame in trace.sites.chain(site):
        if frame.project:
            break
        name = frame.code.co_name
    return name


def _adds_to_state(function: Function) -> bool:
    """Return True if a function adds entries to a module's own state, as those of a checkpoint."""
    own: set[str] = set()
    for node in function.nodes():
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_state(value, own):
                own.add(name)
            case ast.Call(func=ast.Attribute(value=state, attr="update")) if _is_state(state, own):
                return True
            case ast.Assign(targets=[ast.Subscript(value=state)]) if _is_state(state, own):
                return True
            case ast.BinOp(op=ast.BitOr(), left=state) | ast.AugAssign(op=ast.BitOr(), target=state):
                if _is_state(state, own):
                    return True
            case ast.Dict(keys=keys, values=values):
                if len(keys) > 1 and any(k is None and _is_state(v, own) for k, v in zip(keys, values, strict=True)):
                    return True
    return False


def _is_state(value: ast.expr, names: Container[str]) -> bool:
    """Return True if an expression is a call of state_dict(), or one of some names."""
    if isinstance(value, ast.Name):
        return value.id in names
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "state_dict"
