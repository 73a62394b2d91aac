"""The meaning of the names in a file: import aliases, ``from`` imports, plain aliases."""

from __future__ import annotations

import ast
import re

from gradlint.source.scopes import Tree

_DEEPEST = 12
"""Aliases of aliases that are followed."""
LAYERS = frozenset(
    "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss BatchNorm1d BatchNorm2d "
    "BatchNorm3d Bilinear CosineSimilarity Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d "
    "CrossEntropyLoss BCEWithLogitsLoss Dropout Embedding EmbeddingBag GELU GRU GRUCell GroupNorm Identity "
    "InstanceNorm1d InstanceNorm2d InstanceNorm3d LSTM LSTMCell LayerNorm LazyConv1d LazyConv2d LazyConv3d "
    "LazyLinear Linear LogSoftmax Module ModuleDict ModuleList MultiheadAttention NLLLoss PReLU Parameter "
    "ParameterDict ParameterList RMSNorm RNN RNNCell ReLU Sequential SiLU Sigmoid Softmax SyncBatchNorm Tanh "
    "Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer".split()
)
"""Names that ``from torch.nn import *`` binds, unless they are bound elsewhere."""
TRAINABLE = frozenset(
    "AdaptiveLogSoftmaxWithLoss Bilinear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d "
    "Embedding EmbeddingBag GRU GRUCell GroupNorm LSTM LSTMCell LayerNorm LazyConv1d LazyConv2d LazyConv3d "
    "LazyLinear Linear MultiheadAttention PReLU RMSNorm RNN RNNCell Transformer TransformerDecoder "
    "TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer BatchNorm1d BatchNorm2d BatchNorm3d".split()
)
"""Layers of torch.nn that have trainable parameters by default."""
_FUNCTIONALS = "softmax log_softmax sigmoid logsigmoid cross_entropy nll_loss binary_cross_entropy_with_logits"
_STARRED = {
    "torch": frozenset(
        "nn no_grad inference_mode set_grad_enabled softmax log_softmax sigmoid tensor as_tensor".split()
    ),
    "torch.nn": LAYERS | {"functional"},
    "torch.nn.functional": frozenset(_FUNCTIONALS.split()),
}
_CANONICAL = (
    (re.compile(r"^torch\.nn\.modules\.(?:\w+\.)?(?=[A-Z])"), "torch.nn."),
    (re.compile(r"^torch\.nn\.parameter\.(?=[A-Z])"), "torch.nn."),
    (re.compile(r"^torch\.autograd(?:\.grad_mode)?\.(?=no_grad$|inference_mode$|set_grad_enabled$)"), "torch."),
    (re.compile(r"^torch\.optim\.\w+\.(?=[A-Z])"), "torch.optim."),
    (re.compile(r"^torch\.nn\.functional\.(?=softmax$|log_softmax$|sigmoid$)"), "torch."),
    (re.compile(r"^torch\.special\.(?=softmax$|log_softmax$)"), "torch."),
)


class Names:
    """Resolves expressions to the dotted names of what they were imported as."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._known: dict[int, str] = {}
        self._starred = {
            node.module or "" for node in tree.nodes(ast.ImportFrom) if any(alias.name == "*" for alias in node.names)
        }

    def qualified(self, expression: ast.AST, depth: int = 0) -> str:
        """Return the full name, as ``torch.nn.functional.softmax``, in torch's canonical spelling.

        Empty if it is no imported name, or if the name is bound to anything else too.
        """
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name) or depth > _DEEPEST:
            return ""
        root = self._name(expression, depth)
        if not root:
            return ""
        full = ".".join([root, *reversed(parts)])
        for pattern, short in _CANONICAL:
            full = pattern.sub(short, full)
        return full

    def _name(self, name: ast.Name, depth: int) -> str:
        bindings = self.tree.bindings(name)
        if not bindings:
            homes = [home for home in self._starred if name.id in _STARRED.get(home, ())]
            return f"{homes[0]}.{name.id}" if homes else ""
        key = id(bindings)
        if key not in self._known:
            self._known[key] = ""  # a name that is bound to itself stands for nothing
            full_names = {full for binding in bindings if (full := self._bound(binding, depth)) is not None}
            self._known[key] = full_names.pop() if len(full_names) == 1 else ""
        return self._known[key]

    def _bound(self, binding: ast.AST, depth: int) -> str | None:
        """Return what one binding makes a name mean: empty for no import, None for a placeholder."""
        parent = self.tree.parents.get(binding)
        if isinstance(binding, ast.alias):
            if isinstance(parent, ast.ImportFrom):
                return f"{'.' * parent.level}{parent.module or ''}.{binding.name}"
            return binding.name if binding.asname else binding.name.split(".")[0]
        if isinstance(parent, ast.Assign) and binding in parent.targets:
            if isinstance(parent.value, ast.Constant) and parent.value.value is None:
                return None  # torch = None, where the import failed
            if isinstance(parent.value, ast.Attribute | ast.Name):
                return self.qualified(parent.value, depth + 1)
        return ""
