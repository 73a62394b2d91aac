"""Training setups of the kinds that people measure: small ones of random weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def _setup(model: Any, inputs: Any, loss: Any, optimizer: Any = torch.optim.AdamW) -> dict[str, Any]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return {"model": model, "inputs": inputs, "optimizer": optimizer(trainable, lr=1e-3), "loss": loss}


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(x + self.bn2(self.conv2(y)), inplace=True)


def build_resnet_like() -> dict[str, Any]:
    """Residual blocks with batch norm, and SGD with momentum."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3), nn.MaxPool2d(3, 2, 1), _Block(16), _Block(16), nn.Flatten(), nn.Linear(16 * 64, 5)
    )
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    sgd = lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9)  # noqa: E731
    return _setup(model, (x,), lambda out: F.cross_entropy(out, y), sgd)


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Any) -> Any:
        a = F.gelu(self.down1(x))
        b = F.gelu(self.down2(a))
        return self.out(torch.cat([a, F.gelu(self.up(b))], 1))


def build_unet_like() -> dict[str, Any]:
    """Convolutions down and up with a skip connection."""
    x, y = torch.randn(2, 3, 16, 16), torch.randint(0, 2, (2, 16, 16))
    return _setup(_UNet(), (x,), lambda out: F.cross_entropy(out, y))


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(50, 12), nn.LSTM(12, 20, 2), nn.Linear(20, 50)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.lstm(self.embedding(tokens))[0])


def build_lstm() -> dict[str, Any]:
    """A language model of two LSTM layers."""
    tokens = torch.randint(0, 50, (9, 4))
    return _setup(_Lstm(), (tokens,), lambda out: F.cross_entropy(out.flatten(0, 1), tokens.flatten()))


class _Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 3), nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def build_vit_like() -> dict[str, Any]:
    """Patches, and encoder layers of torch."""
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    return _setup(_Vit(), (x,), lambda out: F.cross_entropy(out, y))


def build_bert() -> dict[str, Any]:
    """A small BERT with its own loss."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
    )
    tokens, labels = torch.randint(0, 100, (2, 12)), torch.tensor([0, 1])
    return _setup(BertForSequenceClassification(config), {"input_ids": tokens, "labels": labels}, lambda out: out.loss)


def build_gpt2() -> dict[str, Any]:
    """A small GPT-2 whose output layer shares the embedding's weight."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=100, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    tokens = torch.randint(0, 100, (2, 12))
    return _setup(GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens}, lambda out: out.loss)


def build_rmsprop() -> dict[str, Any]:
    """An optimizer with one tensor of state for each parameter."""
    x, y = torch.randn(8, 30), torch.randn(8, 10)
    return _setup(nn.Linear(30, 10), (x,), lambda out: F.mse_loss(out, y), torch.optim.RMSprop)


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 4)), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(checkpoint(self.wide, x, use_reentrant=False))


def build_checkpointed() -> dict[str, Any]:
    """A part that is run again in the backward."""
    return _setup(_Checkpointed(), (torch.randn(8, 4),), lambda out: out.square().mean())


def build_step() -> dict[str, Any]:
    """A step that computes the loss itself."""
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}
