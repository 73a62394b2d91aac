"""Scalars that are computed and never added to a loss: which are reported, and of which parameters."""

# ruff: noqa: F841 - what is computed and dropped is what is tested

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import each
from torch import Tensor, nn
from torch.nn.functional import mse_loss as mse

from gradlint.engine.check import record_made
from gradlint.engine.options import Options
from gradlint.experiments.settle import analyse
from gradlint.flow.dropped_terms import DroppedTerm


class Pair(nn.Module):
    """Two layers that train."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.extra = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Any, Tensor]:
        return self, x


def said_of(loss: Callable[[Any, Tensor, Tensor], Tensor]) -> str:
    """Return the scalars that a loss drops or leaves out: the layer, and whether a ``return`` is blamed."""

    def build() -> dict[str, Any]:
        model, y = Pair(), torch.ones(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return dict(model=model, inputs=torch.ones(4, 3), optimizer=optimizer, loss=lambda given: loss(*given, y))

    with record_made(build, Options()) as recorded:
        flow = analyse(recorded.trace, recorded.replay)
    kinds = {"dropped": flow.dropped_terms, "penalty": flow.dropped_penalties, "left out": flow.left_out}
    return "; ".join(f"{kind} {in_words(term)}" for kind, terms in kinds.items() for term in terms)


def in_words(term: DroppedTerm) -> str:
    layers = sorted({parameter.fqn.partition(".")[0] for parameter in term.parameters})
    return " ".join([*layers, *(["returned"] if term.returned else [])])


def dropped(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    return mse(n.main(x), y)


def with_a_reader(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    twice = aux * 2
    return mse(n.main(x), y)


def logged(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    aux.item()
    return mse(n.main(x), y)


def detached(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    aux.detach()
    return mse(n.main(x), y)


def logged_sum(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    total = loss + n.extra(x).pow(2).mean()
    total.item()
    return loss


def unlogged_sum(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    total = loss + n.extra(x).pow(2).mean()
    return loss


def no_grad(n: Any, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        aux = n.extra(x).pow(2).mean()
    return mse(n.main(x), y)


def vector(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean(0)
    return mse(n.main(x), y)


def constant(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).detach().mean()
    return mse(n.main(x), y)


def two_returns(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    if not len(x):
        return aux
    return mse(n.main(x), y)


def without_a_name(n: Any, x: Tensor, y: Tensor) -> Tensor:
    n.extra(x).pow(2).mean()
    return mse(n.main(x), y)


def an_attribute(n: Any, x: Tensor, y: Tensor) -> Tensor:
    n.aux = n.extra(x).pow(2).mean()
    return mse(n.main(x), y)


def returned_in_part(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).pow(2).mean()
    return mse(n.main(x), y) + 0 * len(str(aux.shape))


def penalty(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
    p = g.pow(2).sum()
    return loss


def penalty_used(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
    return loss + g.pow(2).sum()


def penalty_without_graph(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, retain_graph=True)
    p = g.pow(2).sum()
    return loss


def penalty_vector(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
    p = g.pow(2)
    return loss


def penalty_in_no_grad(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
    with torch.no_grad():
        p = g.pow(2).sum()
    return loss


def penalty_read(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
    p = g.pow(2).sum()
    p.item()
    return loss


def penalty_twice(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x), y)
    for _ in (False, True):
        (g,) = torch.autograd.grad(loss, n.main.weight, create_graph=True)
        p = g.pow(2).sum()
    return loss + p


def gate(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) * n.extra(x).detach(), y)


def gate_logged(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    aux.item()
    return mse(n.main(x) * n.extra(x).detach(), y)


def gate_no_error(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = n.extra(x).mean()
    return mse(n.main(x) * n.extra(x).detach(), y)


def gate_by_squares(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = ((n.extra(x) - y) ** 2).mean()
    return mse(n.main(x) * n.extra(x).detach(), y)


def gate_by_squares_of_itself(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = (n.extra(x) ** 2).mean()
    return mse(n.main(x) * n.extra(x).detach(), y)


def target(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x), n.extra(x).detach())


def added(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) + n.extra(x).detach(), y)


def before_a_layer(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x * n.extra(x).detach().mean()), y)


def the_loss_itself(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x), y) + n.extra(x).detach().mean()


def sum_with_the_loss(n: Any, x: Tensor, y: Tensor) -> Tensor:
    loss = mse(n.main(x) * n.extra(x).detach(), y)
    total = loss + mse(n.extra(x), y)
    return loss


def number(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) * n.extra(x).mean().item(), y)


def gate_in_no_grad(n: Any, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        aux = mse(n.extra(x), y)
    return mse(n.main(x) * n.extra(x).detach(), y)


def gate_vector(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = (n.extra(x) - y).pow(2).mean(0)
    return mse(n.main(x) * n.extra(x).detach(), y)


def relabelled(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) * n.extra(x).detach().requires_grad_(), y)


def aux_behind_the_cut(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) * aux.detach(), y)


def divided(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = mse(n.extra(x), y)
    return mse(n.main(x) / n.extra(x).detach().exp(), y)


def subtracted(n: Any, x: Tensor, y: Tensor) -> Tensor:
    aux = (n.extra(x) - y).abs().sum()
    return (n.main(x) - n.extra(x).detach()).pow(2).mean()


@each(
    ("loss", "said"),
    [
        (dropped, 'dropped extra returned'),
        (with_a_reader, 'dropped extra returned'),
        (logged, ''),
        (detached, ''),
        (logged_sum, 'dropped extra returned'),
        (unlogged_sum, 'dropped extra returned'),
        (no_grad, ''),
        (vector, ''),
        (constant, ''),
        (two_returns, 'dropped extra'),
        (without_a_name, 'dropped extra'),
        (an_attribute, 'dropped extra'),
        (returned_in_part, 'dropped extra'),
        (penalty, 'penalty main'),
        (penalty_used, ''),
        (penalty_without_graph, ''),
        (penalty_vector, ''),
        (penalty_in_no_grad, ''),
        (penalty_read, ''),
        (penalty_twice, ''),
        (gate, 'left out extra'),
        (gate_logged, 'left out extra'),
        (gate_no_error, ''),
        (gate_by_squares, 'left out extra'),
        (gate_by_squares_of_itself, ''),
        (target, 'left out extra'),
        (added, ''),
        (before_a_layer, ''),
        (the_loss_itself, ''),
        (sum_with_the_loss, 'left out extra returned'),
        (number, 'left out extra'),
        (gate_in_no_grad, ''),
        (gate_vector, ''),
        (relabelled, ''),
        (aux_behind_the_cut, ''),
        (divided, 'left out extra'),
        (subtracted, 'left out extra'),
    ],
    ids=lambda case: case if isinstance(case, str) else case.__name__,
)  # fmt: skip
def test_scalar_that_no_loss_adds(loss: Callable[[Any, Tensor, Tensor], Tensor], said: str) -> None:
    assert said_of(loss) == said
