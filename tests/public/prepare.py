"""Data and tiny pretrained models in the places where public scripts look for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

TEXT = "O God, O God! to be or not to be, that is the question.\n"
WORDS = "the a cat dog sat ran on in mat house big small not be to or is question answer below write response".split()

Preparation = Callable[[Path], None]


def text(path: str, content: str) -> Preparation:
    """A file of text."""

    def prepare(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")

    return prepare


def replaced(path: str, *pairs: tuple[str, str]) -> Preparation:
    """Pieces of a file replaced: sizes, devices, and names that newer versions of a library gave up.

    Raises:
        ValueError: a piece is not there.
    """

    def prepare(folder: Path) -> None:
        content = (folder / path).read_text(encoding="utf-8")
        for old, new in pairs:
            if old not in content:
                raise ValueError(f"{path} has no {old!r}")
            content = content.replace(old, new)
        (folder / path).write_text(content, encoding="utf-8")

    return prepare


def sine_waves(folder: Path) -> None:
    """What generate_sine_wave.py writes, of fewer and shorter waves."""
    import numpy
    import torch

    phases = numpy.arange(40) + numpy.random.randint(-80, 80, 8).reshape(8, 1)
    torch.save(numpy.sin(phases / 20.0), folder / "traindata.pt")


def tokens(folder: Path) -> None:
    """nanoGPT's data set of characters."""
    import numpy

    for part in ("train", "val"):
        path = folder / "data" / "generated" / f"{part}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        numpy.random.randint(0, 60, 5000).astype(numpy.uint16).tofile(path)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: number for number, word in enumerate((*names.values(), *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)


def reviews(folder: Path) -> None:
    """Films praised and panned, a sentence each."""
    for part in ("neg", "pos"):
        lines = [" ".join(WORDS[(7 * i + 3 * j) % len(WORDS)] for j in range(8 + i % 9)) for i in range(300)]
        text(f"rt-polaritydata/rt-polarity.{part}", "\n".join(lines))(folder)


def bert(folder: Path) -> None:
    """A tiny BERT under the name of the real one."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertForMaskedLM(config).save_pretrained(folder / "bert-base-cased")
    _tokenizer(folder / "bert-base-cased")


def opt(folder: Path) -> None:
    """A tiny OPT."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2,
        word_embed_proj_dim=32, max_position_embeddings=600,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder / "opt")
    _tokenizer(folder / "opt")


def mrpc(folder: Path) -> None:
    """The part of GLUE that scripts load, and its metric."""
    home = folder / "nyu-mll" / "glue"
    home.mkdir(parents=True)
    parts = [{"split": part, "path": f"{part}.jsonl"} for part in ("train", "validation")]
    (home / "README.md").write_text(
        "---\n" + json.dumps({"configs": [{"config_name": "mrpc", "data_files": parts}]}) + "\n---\n", encoding="utf-8"
    )
    for part in parts:
        rows = [
            {"idx": i, "sentence1": f"the {WORDS[i % 20]} sat", "sentence2": f"a {WORDS[i % 7]} ran", "label": i % 2}
            for i in range(400)
        ]
        (home / part["path"]).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text(
        "glue/glue.py",
        "import datasets\n"
        "import evaluate\n"
        "class Glue(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        features = {'predictions': datasets.Value('int64'), 'references': datasets.Value('int64')}\n"
        "        return evaluate.MetricInfo(\n"
        "            description='', citation='', inputs_description='', features=datasets.Features(features))\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'accuracy': sum(p == r for p, r in zip(predictions, references)) / len(references)}\n",
    )(folder)


def instructions(folder: Path) -> None:
    """A data set of instructions."""
    rows = [{"instruction": f"the {WORDS[i % 20]}", "input": "", "output": f"a {WORDS[i % 7]} sat"} for i in range(60)]
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")


def pictures(*folders: str) -> Preparation:
    """Folders of small pictures."""

    def prepare(folder: Path) -> None:
        import numpy
        from PIL import Image

        for name in folders:
            (folder / name).mkdir(parents=True)
            for number in range(24):
                pixels = numpy.random.randint(0, 256, (64, 64, 3)).astype("uint8")
                Image.fromarray(pixels).save(folder / name / f"{number}.png")

    return prepare
