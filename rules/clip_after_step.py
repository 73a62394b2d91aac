"""GL506 clip-after-step."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Clip, Context, Finding, Fix, Rule, Severity, Training


class ClipAfterStep(Rule):
    """Gradient that is clipped too late or too early.

    ## What it does
    Finds calls of `clip_grad_norm_` and `clip_grad_value_` without the intended effect. They run after the step and
    before the next backward, before a gradient scaler's `unscale_`, or on an exhausted iterator.

    ## Why it is bad
    The optimizer applies unclipped gradient. If the gradient is clipped while it is multiplied by a scale of thousands,
    every step shrinks to almost nothing.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    An infinite limit only measures the norm and is not reported. Custom clipping functions are not recognized.

    ## References
    https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
    """

    code = "GL506"
    name = "clip-after-step"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    def check(self, context: Context) -> Iterator[Finding]:
        training = context.trace.training
        assert training is not None
        by_site: dict[int, list[Clip]] = {}
        for clip in training.clips:
            by_site.setdefault(clip.site, []).append(clip)
        for clips in by_site.values():
            if any(c.exhausted for c in clips):
                yield self._finding(context, training, clips, "exhausted")
            elif any(c.scaled and not c.measures for c in clips):
                yield self._finding(context, training, clips, "scaled")
            elif any(c.applied for c in clips) and not any(c.fresh or c.measures for c in clips):
                yield self._finding(context, training, clips, "late")

    def _finding(self, context: Context, training: Training, clips: list[Clip], kind: str) -> Finding:
        trace = context.trace
        keys = {k for c in clips for k in (c.scaled if kind == "scaled" else c.applied)}
        if kind == "exhausted":
            keys = {k for s in training.steps for k, c in s.content.items() if c.backwards}
        before = (s.site for s in reversed(training.steps) if s.event < clips[-1].event)
        stepped = next(before, None) if kind == "late" else None
        message, fix = _WORDS[kind]
        return context.finding(
            self,
            message,
            at=clips[0].site,
            parameters=[p for p in trace.parameters if p.key in keys],
            related=[context.related("stepped here", stepped)],
            fix=Fix(fix),
        )


_WORDS = {
    "late": (
        "gradient is clipped after the step that used it: the steps are taken with unclipped gradient.",
        "Clip between backward() and step().",
    ),
    "scaled": (
        "gradient is clipped while it is multiplied by the scaler's factor: the limit is far too small for it.",
        "Call scaler.unscale_(optimizer) before clipping.",
    ),
    "exhausted": (
        "the iterator of parameters given here had been used up: nothing is clipped.",
        "Pass model.parameters() anew, or a list.",
    ),
}
