"""Residual networks and VGG as torchvision builds them, never pretrained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, inside: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inside, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inside, planes * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module | None:
    if inside == outside and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    """A residual network."""

    def __init__(
        self, block: Any, layers: tuple[int, ...], num_classes: int = 1000, zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = 64
        for number, blocks in enumerate(layers, 1):
            planes, stage = 32 << number, nn.Sequential()
            for index in range(blocks):
                stage.append(block(inside, planes, 2 if index == 0 and number > 1 else 1))
                inside = planes * block.expansion
            self.add_module(f"layer{number}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, num_classes)
        for module in self.modules() if zero_init_residual else ():
            if isinstance(module, (_Basic, _Bottleneck)):
                last = module.bn2 if isinstance(module, _Basic) else module.bn3
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def resnet18(pretrained: Any = None, weights: Any = None, **kwargs: Any) -> ResNet:
    """18 layers."""
    return ResNet(_Basic, (2, 2, 2, 2), **kwargs)


def resnet50(pretrained: Any = None, weights: Any = None, **kwargs: Any) -> ResNet:
    """50 layers."""
    return ResNet(_Bottleneck, (3, 4, 6, 3), **kwargs)


_VGG = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """The convolutions of VGG, and a classifier."""

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inside = 3
        for planes, blocks in zip((64, 128, 256, 512, 512), _VGG[depth], strict=True):
            for _ in range(blocks):
                self.features.extend((nn.Conv2d(inside, planes, 3, 1, 1), nn.ReLU(inplace=True)))
                inside = planes
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class VGG16_Weights:
    """Named by scripts."""

    IMAGENET1K_V1 = None


def vgg16(pretrained: Any = None, weights: Any = None, **kwargs: Any) -> VGG:
    """16 layers."""
    return VGG(16, **kwargs)


def vgg19(pretrained: Any = None, weights: Any = None, **kwargs: Any) -> VGG:
    """19 layers."""
    return VGG(19, **kwargs)
