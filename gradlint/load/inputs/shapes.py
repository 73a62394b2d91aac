"""Guess the input shapes of a layer from its type and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from gradlint.load.inputs.values import Guess

BATCH = 2
LENGTH = 8
SIZES: dict[int, tuple[int, ...]] = {
    1: (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16000),
    2: (8, 16, 28, 32, 64, 96, 128, 224, 256),
    3: (8, 16, 32, 64),
}
"""Number of spatial dimensions → spatial sizes to try, smallest first."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Norm layers that normalize each channel over batch and space."""
_SEQUENCE = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_UNITS = (*_SEQUENCE, nn.RNNCellBase)


def entry_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of known input shape in registration order.

    The parts of attention layers are left out.
    """
    todo = [model]
    seen: set[int] = set()
    while todo:
        module = todo.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if shapes_of(module, False):
            yield module
        if not isinstance(module, _UNITS):
            todo += reversed(list(nn.Module.children(module)))


def is_sequence_model(model: nn.Module) -> bool:
    """Return True if the model has recurrent or attention layers."""
    return any(
        isinstance(m, _SEQUENCE)
        or any(word in type(m).__name__.lower() for word in ("attention", "attn", "transformer"))
        for m in nn.Module.modules(model)
    )


def shapes_of(layer: nn.Module, sequence: bool) -> list[Guess]:
    """Return guesses at the first input of a layer, the likeliest first; maybe none.

    Args:
        layer: any module.
        sequence: True if features come with a length dimension.
    """
    if isinstance(layer, _CONVOLUTIONS):
        nd = len(layer.kernel_size)
        return [_spatial(layer.in_channels, s, nd) for s in SIZES[nd]]
    if isinstance(layer, _TRANSPOSED):
        nd = len(layer.kernel_size)
        from_vector = all(s == 1 for s in layer.stride) and not any(map(int, layer.padding))
        return [_spatial(layer.in_channels, s, nd) for s in ((1, 4, 8) if from_vector else (4, 8, 16, 1))]
    if isinstance(layer, nn.Embedding):
        shape, flat = Guess((BATCH, LENGTH), "int", layer.num_embeddings), Guess((BATCH,), "int", layer.num_embeddings)
        return [shape, flat]
    if isinstance(layer, nn.EmbeddingBag):
        return [Guess((BATCH, LENGTH), "int", layer.num_embeddings)]
    if isinstance(layer, nn.RNNBase):
        return [_sequence(layer.input_size, layer.batch_first)]
    if isinstance(layer, nn.RNNCellBase):
        return [Guess((BATCH, layer.input_size))]
    if isinstance(layer, nn.MultiheadAttention):
        return [_sequence(layer.embed_dim, layer.batch_first)]
    if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return [_sequence(layer.self_attn.embed_dim, layer.self_attn.batch_first)]
    if isinstance(layer, nn.Bilinear):
        return [Guess((BATCH, layer.in1_features)), Guess((BATCH, layer.in2_features))]
    if isinstance(layer, nn.Linear):
        return _features(layer.in_features, sequence)
    normalized = getattr(layer, "normalized_shape", None)  # LayerNorm, RMSNorm (newer torch)
    if isinstance(normalized, tuple) and normalized:
        return _features(normalized[0], sequence)[:3] if len(normalized) == 1 else [Guess((BATCH, *normalized))]
    if isinstance(layer, CHANNEL_NORMS):
        channels, name = layer.num_features, type(layer).__name__
        nd = 3 if "3d" in name else 2 if "2d" in name else 1
        images = [_spatial(channels, s, nd) for s in SIZES[nd]]
        return [Guess((BATCH, channels)), *images] if "BatchNorm1d" in name else images
    if isinstance(layer, nn.GroupNorm):
        channels = layer.num_channels
        return [_spatial(channels, LENGTH, 2), _spatial(channels, LENGTH, 1), Guess((BATCH, channels))]
    return [] if next(nn.Module.children(layer), None) is not None else parameter_shapes(layer, sequence)


def parameter_shapes(module: nn.Module, sequence: bool) -> list[Guess]:
    """Return guesses from a module's own parameters, for layers of unknown type."""
    own = [p for p in module._parameters.values() if p is not None and not isinstance(p, nn.UninitializedParameter)]
    return [guess for p in own for guess in _of_parameter(p, sequence)]


def _spatial(channels: int, size: int, nd: int) -> Guess:
    return Guess((BATCH, channels, *[size] * nd))


def _sequence(features: int, batch_first: bool) -> Guess:
    return Guess((BATCH, LENGTH, features) if batch_first else (LENGTH, BATCH, features))


def _features(features: int, sequence: bool) -> list[Guess]:
    plain, long = Guess((BATCH, features)), Guess((BATCH, LENGTH, features))
    first = [long, plain] if sequence else [plain, long]
    return [*first, *images_of(features), Guess((BATCH, LENGTH, LENGTH, features))]


def images_of(numel: int) -> list[Guess]:
    """Return square images of 1 to 4 channels with `numel` values each."""
    images = []
    for channels in (1, 3, 4, 2):
        side = math.isqrt(numel // channels)
        if side > 1 and channels * side * side == numel:
            images.append(Guess((BATCH, channels, side, side)))
    return images


def _of_parameter(parameter: torch.Tensor, sequence: bool) -> list[Guess]:
    shape = tuple(parameter.shape)
    if not shape:
        return [Guess((BATCH, LENGTH))]
    if len(shape) == 1:
        plain, long = Guess((BATCH, *shape)), Guess((BATCH, LENGTH, *shape))
        return [long, plain] if sequence else [plain, long, Guess((BATCH, shape[0], LENGTH, LENGTH))]
    if len(shape) == 2:
        pair = [_features(n, sequence)[:2] for n in (shape[1], shape[0])]
        return [*pair[0], *pair[1], Guess((BATCH, *shape))]
    if len(shape) == 3:
        same = (BATCH, *shape[1:]) if shape[0] == 1 else (BATCH, *shape)
        return [Guess(same), Guess((BATCH, LENGTH, shape[-1])), _spatial(shape[1], 16, 1)]
    nd = len(shape) - 2
    images = [_spatial(shape[1], s, nd) for s in SIZES.get(nd, (8,))[:5]]
    return [Guess((BATCH, *shape[1:])), *images] if shape[0] == 1 else images
