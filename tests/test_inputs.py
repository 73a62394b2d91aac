"""Inputs are parsed, taken from the model or searched, so that a forward runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import each
from torch import Tensor, nn

from gradlint.errors import TargetError, UsageError
from gradlint.load.inputs import search
from gradlint.load.inputs.find import Inputs, InputSpec, InputSpecs, find_inputs, parse_inputs


@each(
    ("texts", "specs"),
    [
        (["2,3,224,224"], InputSpecs((InputSpec((2, 3, 224, 224)),))),
        (["2,16:int64:1000"], InputSpecs((InputSpec((2, 16), "int64", 1000),))),
        (["2,3", "2,4:float64"], InputSpecs((InputSpec((2, 3)), InputSpec((2, 4), "float64")))),
        (["input_ids=2,16:long:50"], InputSpecs((), {"input_ids": InputSpec((2, 16), "int64", 50)})),
        (["mask=2,8:bool"], InputSpecs((), {"mask": InputSpec((2, 8), "bool")})),
        (["alpha=0.5"], InputSpecs((), {"alpha": InputSpec(None, value=0.5)})),
        (["n=5", "b=true"], InputSpecs((), {"n": InputSpec(None, value=5), "b": InputSpec(None, value=True)})),
        (["c=None"], InputSpecs((), {"c": InputSpec(None)})),
        (["1e-3"], InputSpecs((InputSpec(None, value=0.001),))),
        (["8,"], InputSpecs((InputSpec((8,)),))),
        (["8:int64:10"], InputSpecs((InputSpec((8,), "int64", 10),))),
        (["(2, 3)"], InputSpecs((InputSpec((2, 3)),))),
        ([], InputSpecs()),
    ],
)
def test_parse(texts: list[str], specs: InputSpecs) -> None:
    assert parse_inputs(texts) == specs


@each(
    ("text", "expected"),
    [
        ("", "is not a shape"),
        ("2,x", "'2,x' is not a shape"),
        ("2,3:flaot32", "did you mean float32?"),
        ("2,3:float32:5", "only integers take an upper bound"),
        ("2,3:int64:0", "not a positive integer"),
        ("2,3:int64:5:6", "too many parts"),
        ("2,0", "size 0"),
        ("a b=2,3", "not an argument name"),
    ],
)
def test_parse_refuses(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_inputs([text])
    assert expected in str(caught.value)


def test_parse_refuses_a_name_twice() -> None:
    with pytest.raises(UsageError, match="x is given twice"):
        parse_inputs(["x=2,3", "x=2,3"])


def test_specs_are_made() -> None:
    (x,), kwargs = parse_inputs(["2,3:float16", "ids=2,50:int64:7", "alpha=0.5"]).materialize()
    assert (x.dtype, tuple(x.shape), int(kwargs["ids"].max()), kwargs["alpha"]) == (torch.float16, (2, 3), 6, 0.5)


def model(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module with these parts and this forward."""
    made: nn.Module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def param(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def lenet(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * ((size - 4) // 2 // 2 - 2) ** 2, 10),
    )  # fmt: skip


def patches(m: Any, x: Tensor) -> Any:
    b, c, h, w = x.shape
    return m.fc(x.reshape(b, c * h * w))


def vit(m: Any, x: Tensor) -> Any:
    x = m.patch(x).flatten(2).transpose(1, 2)
    return m.head(m.block(torch.cat([m.cls.expand(len(x), -1, -1), x], 1) + m.pos)[:, 0])


def gpt(m: Any, idx: Tensor) -> Any:
    _, t = idx.size()
    assert t <= 4, "sequence too long"
    return m.head(m.tok(idx) + m.pos(torch.arange(t)))


def sinusoidal(m: Any, x: Tensor, t: Tensor) -> Any:
    freqs = torch.exp(-math.log(1e4) * torch.arange(8) / 8)
    emb = torch.cat([(t[:, None] * freqs).sin(), (t[:, None] * freqs).cos()], -1)
    return m.out(m.conv(x) + m.time(emb)[:, :, None, None])


def seq2seq(m: Any, src: Tensor, tgt: Tensor) -> Any:
    return m.out(m.core(m.a(src), m.b(tgt)))


def packed(m: Any, tokens: Tensor, lengths: Tensor) -> Any:
    seq = nn.utils.rnn.pack_padded_sequence(m.emb(tokens), lengths, batch_first=True, enforce_sorted=False)
    return m.out(m.rnn(seq)[1][0][-1])


def mixture(m: Any, image: Tensor, text: Tensor) -> Any:
    return m.text(text).mean(1) @ m.conv(image).mean((2, 3)).t()


def keyword_only(m: Any, *, x: Tensor, y: Tensor) -> Any:
    return m.a(x) + m.b(y)


def masked(m: Any, input_ids: Tensor, attention_mask: Tensor) -> Any:
    h = m.emb(input_ids)
    return m.out((h * attention_mask.unsqueeze(-1)).sum(1) / attention_mask.sum(1, keepdim=True))


def with_loss(m: Any, x: Tensor, labels: Tensor) -> Any:
    return F.cross_entropy(m.fc(x), labels)


def gcn(m: Any, x: Tensor, adj: Tensor) -> Any:
    return m.fc(adj @ x)


def unet(m: Any, x: Tensor) -> Any:
    down = m.down(x)
    return m.out(torch.cat([F.interpolate(m.mid(F.max_pool2d(down, 4)), scale_factor=4), down], 1))


def einsum(m: Any, x: Tensor) -> Any:
    return torch.einsum("bnd,de->bne", x, m.w)


def unregistered(m: Any, x: Tensor) -> Any:
    return m.out(m.hidden[0](x))


def optional_needed(m: Any, x: Any = None, y: Any = None) -> Any:
    return m.fc(x)


def sentinel(m: Any, x: Tensor, scale: float, training: bool) -> Any:
    return m.fc(x) * scale


sentinel.__annotations__ = {"x": Tensor, "scale": float, "training": bool}


def one_hot(m: Any, x: Tensor) -> Any:
    return m.fc(F.one_hot(x, 6).float())


def viewed(m: Any, x: Tensor) -> Any:
    return m.fc(F.max_pool2d(m.conv(x), 2).view(2, 4 * 14 * 14))


def log_prob(m: Any, obs: Tensor, actions: Tensor) -> Any:
    policy: Any = torch.distributions.Normal(m.fc(obs), 1.0)
    return policy.log_prob(actions)


EMB = nn.Embedding
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Linear(5, 2), "float32[2, 5]"),
    "double": (lambda: nn.Linear(5, 2).double(), "float64[2, 5]"),
    "half": (lambda: nn.Linear(5, 2).bfloat16(), "bfloat16[2, 5]"),
    "conv1d": (lambda: nn.Conv1d(4, 4, 3), "float32[2, 4, 8]"),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), "float32[2, 3, 8, 8]"),
    "conv3d": (lambda: nn.Conv3d(1, 4, 3), "float32[2, 1, 8, 8, 8]"),
    "long conv1d": (lambda: nn.Sequential(nn.Conv1d(1, 2, 80), nn.Conv1d(2, 2, 40)), "float32[2, 1, 128]"),
    "generator": (lambda: nn.Sequential(nn.ConvTranspose2d(100, 8, 4), nn.BatchNorm2d(8)), "float32[2, 100, 1, 1]"),
    "mlp with batch norm": (lambda: nn.Sequential(nn.Linear(784, 8), nn.BatchNorm1d(8)), "float32[2, 784]"),
    "flattening": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), "float32[2, 784]"),
    "image to linear": (lambda: model(patches, fc=nn.Linear(784, 2)), "float32[2, 1, 28, 28]"),
    "lenet 28": (lambda: lenet(28), "float32[2, 1, 28, 28]"),
    "lenet 32": (lambda: lenet(32), "float32[2, 1, 32, 32]"),
    "lenet 50": (lambda: lenet(50), "float32[2, 1, 48, 48]"),
    "view": (lambda: model(viewed, conv=nn.Conv2d(3, 4, 3, padding=1), fc=nn.Linear(784, 2)), "float32[2, 3, 28, 28]"),
    "embedding": (lambda: nn.Sequential(EMB(50, 4), nn.Linear(4, 50)), "int64[2, 8]"),
    "short context": (lambda: model(gpt, tok=EMB(9, 4), pos=EMB(4, 4), head=nn.Linear(4, 9)), "int64[2, 4]"),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(50, 4), nn.Linear(4, 2)), "int64[2, 8]"),
    "lstm": (lambda: nn.LSTM(6, 4), "float32[8, 2, 6]"),
    "gru batch first": (lambda: nn.GRU(6, 4, batch_first=True), "float32[2, 8, 6]"),
    "cell": (lambda: nn.GRUCell(6, 4), "float32[2, 6]"),
    "layer norm first": (lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), "float32[2, 6]"),
    "batch norm 2d first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)), "float32[2, 3, 8, 8]"),
    "group norm first": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Conv1d(4, 2, 3)), "float32[2, 4, 8]"),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1, enable_nested_tensor=False
        ),
        "float32[2, 8, 8]",
    ),
    "transformer": (lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True), "float32[2, 8, 8], float32[2, 8, 8]"),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        "float32[2, 8, 8], float32[2, 8, 8], float32[2, 8, 8]",
    ),
    "bilinear": (lambda: nn.Bilinear(3, 5, 2), "float32[2, 3], float32[2, 5]"),
    "vit": (
        lambda: model(
            vit,
            patch=nn.Conv2d(3, 8, 8, 8),
            cls=param(1, 1, 8),
            pos=param(1, 17, 8),
            block=nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
            head=nn.Linear(8, 2),
        ),
        "float32[2, 3, 32, 32]",
    ),
    "diffusion": (
        lambda: model(sinusoidal, conv=nn.Conv2d(3, 4, 3), time=nn.Linear(16, 4), out=nn.Conv2d(4, 3, 3)),
        "float32[2, 3, 8, 8], int64[2]",
    ),
    "seq2seq": (
        lambda: model(
            seq2seq,
            a=EMB(20, 8),
            b=EMB(30, 8),
            core=nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
            out=nn.Linear(8, 30),
        ),
        "int64[2, 8], int64[2, 8]",
    ),
    "packed": (
        lambda: model(packed, emb=EMB(20, 4), rnn=nn.LSTM(4, 4, batch_first=True), out=nn.Linear(4, 2)),
        "int64[2, 8], int64[2]",
    ),
    "image and text": (
        lambda: model(mixture, conv=nn.Conv2d(3, 4, 3), text=EMB(20, 4)),
        "float32[2, 3, 8, 8], int64[2, 8]",
    ),
    "keyword only": (
        lambda: model(keyword_only, a=nn.Linear(3, 2), b=nn.Linear(5, 2)),
        "x=float32[2, 3], y=float32[2, 5]",
    ),
    "mask": (lambda: model(masked, emb=EMB(20, 4), out=nn.Linear(4, 2)), "int64[2, 8], bool[2, 8]"),
    "labels": (lambda: model(with_loss, fc=nn.Linear(4, 3)), "float32[2, 4], int64[2]"),
    "graph": (lambda: model(gcn, fc=nn.Linear(4, 3)), "float32[2, 4], float32[2, 2]"),
    "unet": (
        lambda: model(
            unet, out=nn.Conv2d(8, 1, 1), mid=nn.Conv2d(4, 4, 3, padding=1), down=nn.Conv2d(3, 4, 3, padding=1)
        ),
        "float32[2, 3, 8, 8]",
    ),
    "two images": (
        lambda: model(lambda m, x, z: m.conv(x) - z * m.s, conv=nn.Conv2d(4, 3, 3, padding=1), s=param()),
        "float32[2, 4, 8, 8], float32[2, 3, 8, 8]",
    ),
    "distribution": (
        lambda: model(log_prob, fc=nn.Linear(5, 2)),
        "float32[2, 5], float32[2, 2]",
    ),
    "gather": (
        lambda: model(lambda m, x, ids_keep: m.fc(x).gather(1, ids_keep), fc=nn.Linear(5, 9)),
        "float32[2, 5], int64[2, 8]",
    ),
    "einsum": (lambda: model(einsum, w=param(5, 7)), "float32[2, 8, 5]"),
    "bare vector": (lambda: model(lambda m, x: x * m.w, w=param(7)), "float32[2, 7]"),
    "bare matrix": (lambda: model(lambda m, x: x @ m.w, w=param(5, 7)), "float32[2, 5]"),
    "bare functional": (lambda: model(lambda m, x: F.linear(x, m.w), w=param(5, 7)), "float32[2, 7]"),
    "bare conv": (lambda: model(lambda m, x: F.conv2d(x, m.w), w=param(4, 3, 3, 3)), "float32[2, 3, 8, 8]"),
    "scalar": (lambda: model(lambda m, x: x * m.w, w=param()), "float32[2, 8]"),
    "unregistered layers": (
        lambda: model(unregistered, hidden=[nn.Linear(6, 10)], out=nn.Linear(10, 3)),
        "float32[2, 6]",
    ),
    "scalars by annotation": (lambda: model(sentinel, fc=nn.Linear(4, 2)), "float32[2, 4], 0.5, False"),
    "optional but needed": (lambda: model(optional_needed, fc=nn.Linear(4, 2)), "float32[2, 4]"),
    "one hot": (lambda: model(one_hot, fc=nn.Linear(6, 2)), "int64[2, 6]"),
    "nothing": (lambda: model(lambda m: m.w * 2, w=param(3)), "none"),
    "data parallel": (lambda: nn.DataParallel(nn.Conv2d(3, 4, 3)), "float32[2, 3, 8, 8]"),
    "variadic": (lambda: model(lambda m, *args, **kwargs: m.fc(*args), fc=nn.Linear(4, 2)), "float32[2, 4]"),
}


def find(made: nn.Module) -> Inputs:
    return find_inputs(made, lambda args, kwargs: made(*args, **kwargs))


@each("name", MODELS)
def test_search(name: str) -> None:
    make, expected = MODELS[name]
    assert find(make()).description == expected


class Refuses(nn.Module):
    """A network that does much, and then refuses every input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.tries = 0

    def forward(self, x: Any) -> Any:
        self.tries += 1
        raise ValueError(f"no {self.first(x).shape}")


def test_the_search_ends_by_the_work_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of time would let a busy machine find less."""
    full, short = Refuses(), Refuses()
    with pytest.raises(TargetError, match="found no inputs"):
        find(full)
    monkeypatch.setattr(search, "MAX_ELEMENTS", 1000)
    with pytest.raises(TargetError, match="found no inputs"):
        find(short)
    assert 0 < short.tries < full.tries


@pytest.mark.parametrize("name", ["conv2d", "nothing", "seq2seq"])
def test_found_inputs_run(name: str) -> None:
    made = MODELS[name][0]()
    found = find(made)
    made(*found.args, **found.kwargs)


def test_norm_layers_get_something_to_normalize() -> None:
    blocks = [nn.Sequential(nn.Conv2d(c, 4, 3, 2, 1), nn.BatchNorm2d(4)) for c in (3, 4, 4, 4)]
    assert find(nn.Sequential(*blocks)).description == "float32[2, 3, 32, 32]"


@each(
    ("attribute", "value", "expected"),
    [
        ("example_input_array", torch.ones(3, 4), "float32[3, 4]"),
        ("example_input_array", (torch.ones(3, 4),), "float32[3, 4]"),
        ("dummy_inputs", {"input": torch.ones(3, 4)}, "input=float32[3, 4]"),
        ("dummy_inputs", torch.ones(3, 9), "float32[2, 4]"),
    ],
)
def test_the_models_own(attribute: str, value: Any, expected: str) -> None:
    made = nn.Linear(4, 2)
    setattr(made, attribute, value)
    assert find(made).description == expected


def test_global_random_state_is_untouched() -> None:
    made = lenet(28).eval()
    before = torch.get_rng_state()
    find(made)
    assert torch.equal(before, torch.get_rng_state())


def test_same_inputs_every_time() -> None:
    made = nn.Linear(4, 2)
    assert torch.equal(find(made).args[0], find(made).args[0])


def test_no_hooks_remain() -> None:
    hooks = torch.nn.modules.module
    find(nn.Conv2d(3, 4, 3))
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks


def _hopeless(m: Any, x: Tensor) -> Any:
    raise RuntimeError("needs a tree\nof life")


@each("expected", ["found no inputs that Net", "RuntimeError: needs a tree.", "--input", "float32[2, 4]"])
def test_nothing_runs(expected: str) -> None:
    with pytest.raises(TargetError) as caught:
        find(model(_hopeless, fc=nn.Linear(4, 2)))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_runs_shows_the_users_traceback_alone() -> None:
    with pytest.raises(TargetError) as caught:
        find(model(_hopeless, fc=nn.Linear(4, 2)))
    assert "in _hopeless" in caught.value.traceback and "input_search" not in caught.value.traceback


def test_no_forward() -> None:
    with pytest.raises(TargetError, match="ModuleList has no forward"):
        find(nn.ModuleList([nn.Linear(2, 2)]))


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PRETRAINED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": (
        "BertForSequenceClassification",
        "BertConfig",
        {**SMALL, "vocab_size": 50},
        "input_ids=int64[2, 8], labels=int64[2]",
    ),
    "bert regression": (
        "BertForSequenceClassification",
        "BertConfig",
        {**SMALL, "vocab_size": 50, "num_labels": 1},
        "input_ids=int64[2, 8], labels=float32[2]",
    ),
    "bert tokens": (
        "BertForTokenClassification",
        "BertConfig",
        {**SMALL, "vocab_size": 50},
        "input_ids=int64[2, 8], labels=int64[2, 8]",
    ),
    "bert questions": (
        "BertForQuestionAnswering",
        "BertConfig",
        {**SMALL, "vocab_size": 50},
        "input_ids=int64[2, 8], start_positions=int64[2], end_positions=int64[2]",
    ),
    "bert base": ("BertModel", "BertConfig", {**SMALL, "vocab_size": 50}, "input_ids=int64[2, 8]"),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 16},
        "input_ids=int64[2, 8], labels=int64[2, 8]",
    ),
    "gpt2 classifier": (
        "GPT2ForSequenceClassification",
        "GPT2Config",
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50},
        "input_ids=int64[1, 8], labels=int64[1]",
    ),
    "llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**SMALL, "vocab_size": 50},
        "input_ids=int64[2, 8], labels=int64[2, 8]",
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {**SMALL, "image_size": 32, "patch_size": 8},
        "pixel_values=float32[2, 3, 32, 32], labels=int64[2]",
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50,
            "decoder_start_token_id": 0,
        },
        "input_ids=int64[2, 8], labels=int64[2, 8]",
    ),
    "t5 base": (
        "T5Model",
        "T5Config",
        {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50},
        "input_ids=int64[2, 8], decoder_input_ids=int64[2, 8]",
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 60,
            "max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 8, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        },
        "input_features=float32[2, 8, 40], labels=int64[2, 8]",
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
            "vision_config": {**SMALL, "image_size": 32, "patch_size": 8},
        },
        "input_ids=int64[2, 8], pixel_values=float32[2, 3, 32, 32], return_loss=True",
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]},
        "pixel_values=float32[2, 3, 64, 64], labels=int64[2]",
    ),
}  # fmt: skip


@each("name", PRETRAINED)
def test_pretrained_models(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind, config, settings, expected = PRETRAINED[name]
    made = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    assert find(made).description == expected


def test_pretrained_model_inside_peft() -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    adapted = peft.get_peft_model(made, peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    assert find(adapted).description == "input_ids=int64[2, 8], labels=int64[2, 8]"
