"""What a from_pretrained() of transformers leaves at initial values, in the recording of its own calls."""

from __future__ import annotations

import json

import pytest

from gradlint.api.check import check

transformers = pytest.importorskip("transformers")
CONFIG = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}


@pytest.fixture
def checkpoint(tmp_path):
    transformers.BertForMaskedLM(transformers.BertConfig(**CONFIG)).save_pretrained(tmp_path)
    return tmp_path


def findings(checkpoint):
    def build():
        model = transformers.BertForSequenceClassification.from_pretrained(checkpoint)
        return {"model": model.train(), "inputs": {"input_ids": model.dummy_inputs["input_ids"] % 20}}

    return [f for f in check(build, show_info=True).findings if f.code == "GL113"]


def test_a_new_head_is_silent(checkpoint):
    assert findings(checkpoint) == []


def test_no_name_of_the_checkpoint_matches(checkpoint):
    from safetensors.torch import load_file, save_file

    file = checkpoint / "model.safetensors"
    save_file({f"net.{name}": value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    (found,) = findings(checkpoint)
    assert found.severity.name == "ERROR"
    assert {name.partition(".")[0] for name in found.parameters} == {"bert", "classifier"}


def test_checkpoint_has_fewer_layers(checkpoint):
    file = checkpoint / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}), encoding="utf-8")
    (found,) = findings(checkpoint)
    assert found.severity.name == "INFO"
    assert all(name.startswith("bert.encoder.layer.2.") for name in found.parameters)
