"""GL505 training-in-eval-mode."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Module, Rule, Severity, SourceContext, SourceModule, Step, Trace
from gradlint.source import CodeEffect, EffectKind, FunctionEffects, functions_and_loops, is_mode_free
from gradlint.traces import CallIndex, ModeSwitch, ModuleIndex


class TrainingInEvalMode(Rule):
    """A training step while a whole network is in eval mode.

    ## What it does
    Finds optimizer steps whose forward ran with a whole network in eval mode: the model, or a part of it that user code
    calls by itself. Only networks with layers that depend on the mode (dropout, batch norm) are considered. The finding
    is at the `eval()` call.

    ## Why it is bad
    `train()` was forgotten after a validation or a sample. For the rest of the training, dropout is off and batch norm
    uses its old statistics without updating them.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(3)]

        def validate():
            model.eval()
            with torch.no_grad():
                return model(batches[0][0])

        def train():
            for x, y in batches:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
                validate()

        return {"model": model, "optimizer": optimizer, "step": train}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(3)]

        def validate():
            model.eval()
            with torch.no_grad():
                return model(batches[0][0])

        def train():
            for x, y in batches:
                model.train()
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
                validate()

        return {"model": model, "optimizer": optimizer, "step": train}
    ```

    ## Known limits
    Custom layers that read `self.training` are not recognized. Not reported if the setup declares `train: False`, or if
    only part of a network that is called as a whole is in eval mode.

    In a source file alone, the rule judges loops that train a model and call its `eval()`, also in functions of the
    file. Nothing in the loop may call `train()`.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
    """

    code = "GL505"
    name = "training-in-eval-mode"
    severity = Severity.WARNING
    needs = frozenset({"step"})
    yields_to = frozenset({"GL414"})
    source_prefilter = ("backward(", ".step(", ".eval(|.train(")
    recording_overrides_source = True

    MESSAGE = "{model} is trained in eval mode, which turns off the training behavior of {layers}."
    MESSAGE_SOURCE = "{model} is left in eval mode: later iterations of the loop train it so."
    RELATED_BACKWARD = "the next iteration trains in eval mode"
    FIX = "Call train() before training continues."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        reported: set[ast.expr] = set()
        for function, loops in functions_and_loops(module):
            for loop in loops:
                effects = function.of_body(loop)
                for switch, backward in _left_in_eval(module, function, loop, effects):
                    if switch.node not in reported and not is_mode_free(module):
                        reported.add(switch.node)
                        yield context.finding(
                            self,
                            self.MESSAGE_SOURCE.format(model=switch.object_name),
                            switch.node,
                            related=[context.related(self.RELATED_BACKWARD, backward.node)],
                            fix=Fix(self.FIX),
                        )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if trace.setup.train is False:
            return
        reported: set[ModuleIndex] = set()
        for step in context.training.steps:
            for outer, modules in _in_eval(context, step):
                if outer.number not in reported:
                    reported.add(outer.number)
                    yield self._finding(context, outer, step, modules)

    def _finding(self, context: Context, outer: Module, step: Step, modules: list[Module]) -> Finding:
        trace = context.trace
        indices = sorted({i for m in modules for i in m.parameters})
        parameters = [trace.parameters[i] for i in indices] or [p for p in trace.below(outer) if p.key in step.content]
        switch = _last_switch(trace, outer, step)
        return context.finding(
            self,
            self.MESSAGE.format(
                model=outer.fqn or "the model", layers=" and ".join(sorted({m.type.name for m in modules}))
            ),
            at=switch.site if switch is not None else step.site,
            parameters=parameters,
            related=[context.related("this step trains the model in eval mode", step.site)],
            fix=Fix(self.FIX),
        )


def _left_in_eval(
    module: SourceModule, function: FunctionEffects, loop: ast.For | ast.AsyncFor | ast.While, effects: list[CodeEffect]
) -> Iterator[tuple[CodeEffect, CodeEffect]]:
    """Yield (eval, backward) where a loop leaves the network that it trains in eval mode."""
    backwards = [e for e in effects if e.kind is EffectKind.BACKWARD and e.is_grad_enabled]
    steps = [e for e in effects if e.kind is EffectKind.STEP]
    if not backwards or not steps or any(e.kind is EffectKind.TRAIN_MODE for e in effects):
        return
    before = [s for s in function.own_statements() if s.lineno < loop.lineno and loop not in module.tree.above(s)]
    trained = {e.object_name for s in before for e in function.of(s) if e.kind is EffectKind.TRAIN_MODE} | {
        s.trained_model for s in steps
    }
    for switch in (e for e in effects if e.kind is EffectKind.EVAL_MODE and e.object_name in trained and e.object_name):
        if switch.is_before_exit or any(e.may_affect({switch.object_name}) for e in effects):
            continue
        after = effects.index(switch) > effects.index(backwards[0])
        if after or not (switch.is_unconditional or _is_beside(module, switch.node, backwards)):
            yield switch, backwards[0]


def _is_beside(module: SourceModule, switch: ast.expr, backwards: list[CodeEffect]) -> bool:
    """Return True if the branch that switches the mode also trains."""
    branch = next((a for a in module.tree.above(switch) if isinstance(a, ast.If)), None)
    inside = set(ast.walk(branch)) if branch is not None else set()
    return any(backward.node in inside for backward in backwards)


def _in_eval(context: Context, step: Step) -> list[tuple[Module, list[Module]]]:
    """Return the networks that ran in eval mode, each with its mode-dependent modules.

    A container that is never called says nothing: a head without modes may be in train mode beside a body in eval mode.
    """
    trace, training = context.trace, context.training
    used = [training.backwards[b] for c in step.content.values() for b in c.backwards]
    if not used:
        return []
    first, last = min(b.event for b in used), max(used, key=lambda b: b.event)
    start = max([training.start, *(b.op for b in training.backwards if b.event < first)])
    dependent: dict[ModuleIndex, dict[ModuleIndex, Module]] = {}
    trained: set[ModuleIndex] = set()
    for number in _calls_with_grad(trace, start, last.op):
        call = trace.calls[number]
        *_, outermost = trace.calls_around(number)
        outer = _network(trace, trace.calls[outermost].module)
        if call.training:
            trained.add(outer)
        elif _depends_on_mode(trace.modules[call.module]):
            dependent.setdefault(outer, {})[call.module] = trace.modules[call.module]
    around_trained = {module.number for number in trained for module in trace.around(number)}
    return [
        (trace.modules[outer], list(modules.values()))
        for outer, modules in dependent.items()
        if outer not in around_trained
        and not (trained and _is_layer(trace.modules[outer]))
        and not step.content.keys().isdisjoint(p.key for p in trace.below(trace.modules[outer]))
    ]


def _network(trace: Trace, outermost: ModuleIndex) -> ModuleIndex:
    """Return the network that user code calls; for a single layer, the module around it if any."""
    module = trace.modules[outermost]
    return module.parent if _is_layer(module) and module.parent >= 0 else outermost


def _is_layer(module: Module) -> bool:
    """Return True if a module may stay in eval mode on purpose while those beside it train."""
    return not module.children and not module.has_recurrent_dropout


def _calls_with_grad(trace: Trace, start: int, end: int) -> list[CallIndex]:
    """Return the module calls of a range of ops that ran an op with grad mode on.

    Calls in them without any op are included: such a layer may skip others in eval mode.
    """
    ops = trace.ops[start:end]
    ran = trace.with_outer_calls(op.call for op in ops)
    calls = trace.with_outer_calls(op.call for op in ops if op.region < 0)
    for number, call in enumerate(trace.calls):
        if call.parent in calls and number not in ran:
            calls.add(CallIndex(number))
    return sorted(calls)


def _depends_on_mode(module: Module) -> bool:
    """Return True if a layer behaves differently in train mode."""
    is_norm = "_BatchNorm" in module.type.bases and "running_mean" in module.running_stats
    return is_norm or module.is_active_dropout or module.has_recurrent_dropout


def _last_switch(trace: Trace, outer: Module, step: Step) -> ModeSwitch | None:
    """Return the last event before a step that set the mode of a whole module."""
    around = {module.number for module in trace.around(outer.number)}
    switches = [e for e in trace.events_of(ModeSwitch) if e.module in around and e.number < step.event]
    return switches[-1] if switches else None
