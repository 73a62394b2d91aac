"""Every architecture of transformers from a small config, trained by AdamW over all parameters, judged by every rule.

``python tests/kit/stock.py --write`` runs them all, holds gradlint's verdicts against a real backward, prints the
findings for a person to review, and writes the snapshot; names of architectures after it run only those.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

SNAPSHOT = Path(__file__).with_name("stock.json")
SECONDS = 60
"""Of one architecture in one size: a build that is slower was not shrunk."""
REVIEWED = frozenset("GL101 GL201 GL301 GL302 GL303 GL401 GL402 GL403 GL404 GL405 GL406".split())
"""The rules whose findings, infos included, the snapshot holds; of the others no error or warning may come."""
LARGEST = 40_000_000
"""Parameters of a model that is worth running here."""

HEADS = (
    "SEQ_TO_SEQ_CAUSAL_LM SPEECH_SEQ_2_SEQ CAUSAL_LM CTC SEQUENCE_CLASSIFICATION IMAGE_CLASSIFICATION "
    "AUDIO_CLASSIFICATION VIDEO_CLASSIFICATION SEMANTIC_SEGMENTATION UNIVERSAL_SEGMENTATION OBJECT_DETECTION "
    "DEPTH_ESTIMATION IMAGE_TEXT_TO_TEXT MULTIMODAL_LM MASKED_LM TIME_SERIES_PREDICTION PRETRAINING"
).split()
"""The heads of an architecture, the most trainable first; the base model stands after them all."""

WIDTH, HEAD, HEADS_MADE, INNER, VOCABULARY, POSITIONS = 32, 8, 4, 64, 128, 64

RULES: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    (
        r"type_vocab_size|num_labels|num_feat_extract_layers|.*_(stride|kernel_size|kernel)|num_channels|"
        r"conv_.*|patch_stride",
        lambda v, n: v,
    ),
    (r".*vocab_size(_per_layer_input)?|vocab_size.*|n_vocab", lambda v, n: min(v, VOCABULARY)),
    (r"rotary_dim|.*_rotary_dim", lambda v, n: min(v, HEAD // 2)),
    (r"mamba_d_ssm", lambda v, n: min(v, INNER)),
    (r"upsample_groups", lambda v, n: min(v, WIDTH)),
    (r"qk_head_dim", lambda v, n: min(v, 2 * HEAD)),
    (r"(q|kv|o)_lora_rank|.*low_rank.*|.*lora.*(rank|dim)", lambda v, n: min(v, 16)),
    (r"mamba_(d_|n_)?(heads|num_heads)|mamba_num_heads|mamba_n_heads", lambda v, n: 4),
    (r"mamba_(d_head|head_dim)", lambda v, n: 16),
    (
        r".*(qk_rope|qk_nope|v|qk|index|rope|attention)?_?head_dim|v_head_dim|d_kv|.*head_size|"
        r"kv_channels|.*_d_head",
        lambda v, n: min(v, HEAD),
    ),
    (r".*(key_value_heads|kv_heads|num_kv.*|n_head_kv|multi_query_group_num|index_n_heads)", lambda v, n: min(v, 2)),
    (r".*(attention_heads|num_heads|n_heads?|num_attention_heads|heads)", lambda v, n: min(v, HEADS_MADE)),
    (r"num_experts_per_tok|.*top_?k|moe_topk|num_selected_experts|.*experts_per_tok.*", lambda v, n: min(v, 2)),
    (r"n_group|n_groups|num_expert_group|mamba_n_groups|topk_group|.*shared_experts", lambda v, n: min(v, 1)),
    (r".*(experts|n_routed_experts|num_local_experts)", lambda v, n: min(v, 4)),
    (
        r".*(intermediate_size.*|ffn_dim|ffn_hidden_size|mlp_dim|feedforward.*|d_ff|d_inner|n_inner|"
        r"dim_feedforward|ff_dim|intermediate_dim|encoder_ffn_dim|decoder_ffn_dim|ffn_embed_dim|"
        r"hidden_dim_ffn|lru_width)",
        lambda v, n: min(v, INNER),
    ),
    (r"first_k_dense_replace|.*_offset", lambda v, n: min(v, 1)),
    (r".*(_period|_interval|_every_n_layers|_every)", lambda v, n: min(v, 2)),
    (
        r"(.*_)?(layers?|n_layers?|num_layers|depth|num_hidden_layers|num_blocks|n_blocks|repeats)",
        lambda v, n: min(v, n),
    ),
    (r".*(image_size|img_size)", lambda v, n: min(v, 32)),
    (r"patch_size", lambda v, n: min(v, 8)),
    (
        r".*(position_embeddings|positions|n_ctx|max_seq_len|max_sequence_length|seq_length|"
        r"relative_position.*|position_buckets|position_embedding_size)",
        lambda v, n: min(v, POSITIONS),
    ),
    (
        r"(.*state_size|.*d_state|num_queries|num_query_tokens|num_latents|.*num_mel_bins|chunk_size|"
        r".*chunk_length)",
        lambda v, n: min(v, 16),
    ),
    (
        r"(.*_)?(hidden_size.*|d_model|n_embd|embed_dim|hidden_dim|embedding_size|dim|emb_dim|"
        r"projection_dim|model_dim|width|hidden_channels|mm_hidden_size|embedding_dim|.*_hidden_size|"
        r".*hidden_dim|.*embed_dim|output_dim|out_hidden_size|.*_dim)",
        lambda v, n: min(v, WIDTH),
    ),
)  # fmt: skip
"""Name of a whole-number setting → its small value, given the old one and the number of layers."""

COMPILED = tuple((re.compile(pattern), small) for pattern, small in RULES)


class NotRun(Exception):
    """Why an architecture could not be judged."""


def small(config: Any, level: int) -> Any:
    """A config of the same class with few layers, and at the first levels narrow ones; nested configs likewise."""
    kind = type(config)
    layers = (2, 4, 2)[level]
    try:
        plain = vars(kind())
    except Exception:
        plain = {}
    given = vars(config)
    settings: dict[str, Any] = {}
    sizes = {"depth"} if level == 2 else set()
    vocabulary = min([v for k, v in given.items() if k == "vocab_size" and isinstance(v, int)] + [VOCABULARY])
    identifiers = iter(range(vocabulary - 1, 3, -1))
    for name, value in given.items():
        if name.startswith("_") or name in (
            "transformers_version",
            "model_type",
            "id2label",
            "label2id",
            "architectures",
        ):
            continue
        made = value
        if name == "head_dim" and value is None and level < 2:
            made = HEAD
        elif name == "attn_layer_indices" and value is None:
            made = [layers - 1]
        elif name == "embed_dim" and isinstance(given.get("num_heads"), list):
            pass  # each stage has heads of its own
        elif name in ("num_key_value_heads", "num_kv_heads") and "kv_lora_rank" in given and level < 2:
            made = HEADS_MADE
        elif isinstance(value, list) and len(value) == given.get("num_hidden_layers", 0) > layers:
            made = value[:layers]
        elif name == "use_timm_backbone":
            made = False
        elif name == "backbone_config" and (value is None or getattr(value, "model_type", "") == "timm_backbone"):
            made = _backbone()
        elif name == "backbone" and given.get("use_timm_backbone"):
            made = None
        elif hasattr(value, "to_dict") and hasattr(value, "model_type"):
            made = small(value, level)
        elif isinstance(value, bool):
            pass
        elif isinstance(value, int):
            if name.endswith(("token_id", "token_index", "_token")) and value >= vocabulary:
                made = next(identifiers)
            else:
                made = _number(name, value, layers, bool(sizes))
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
            if re.fullmatch(r"(.*_)?(depths?|layer_depths|num_blocks|layers|block_repeats)", name):
                made = [min(v, 2) for v in value]
            elif (
                name.endswith(("out_indices", "out_layers", "layer_indices", "feature_layer", "_layers_idx"))
                and level < 2
            ):
                made = (
                    [min(v, layers) if v >= 0 else v for v in value] if level == 0 else list(range(1, len(value) + 1))
                )
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict) and level < 2:
            made = _rope(value)
        if made is value and name in plain and _equal(plain[name], value):
            continue
        if name in (
            "layer_types",
            "mlp_layer_types",
            "out_features",
            "stage_names",
            "attention_layers",
            "layers_block_type",
        ):
            continue
        settings[name] = made
    return kind(**settings)


def _backbone() -> Any:
    """What stands in for a backbone of timm, which is not installed."""
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], out_indices=[1, 2, 3, 4])


def _number(name: str, value: int, layers: int, only_depth: bool) -> int:
    for pattern, rule in COMPILED:
        if pattern.fullmatch(name):
            if only_depth and rule(10**9, layers) not in (layers, VOCABULARY):
                return value
            return rule(value, layers) if value > 0 else value
    return value


def _rope(value: dict[str, Any]) -> dict[str, Any]:
    made = dict(value)
    section = made.get("mrope_section")
    if isinstance(section, list):
        made["mrope_section"] = [2, 1, 1] if len(section) == 3 else [1] * len(section)
    return made


def _equal(left: Any, right: Any) -> bool:
    try:
        return bool(left == right)
    except Exception:
        return False


def architectures() -> dict[str, list[str]]:
    """Model type → its classes, the most trainable head first."""
    from transformers.models.auto import modeling_auto as auto

    found: dict[str, list[str]] = {}
    for head in HEADS:
        for kind, names in getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES").items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(kind, []).append(name)
    for kind, names in auto.MODEL_MAPPING_NAMES.items():
        found.setdefault(kind, []).extend([names] if isinstance(names, str) else names[:1])
    return {kind: list(dict.fromkeys(names)) for kind, names in sorted(found.items())}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise NotRun when the block takes longer."""

    def late(*_: Any) -> None:
        raise NotRun(f"takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def builder(kind: str, name: str, level: int) -> Callable[[], tuple[Any, Any]]:
    """A build() as a user writes it, of one class and one size."""
    import transformers
    from transformers import CONFIG_MAPPING

    model_class = getattr(transformers, name)
    config_class = model_class.config_class or CONFIG_MAPPING[kind]
    config = small(config_class(), level)
    with torch.device("meta"), contextlib.suppress(NotImplementedError):
        count = sum(p.numel() for p in model_class(config).parameters())
        if count > LARGEST:
            raise NotRun(f"{count / 1e6:.0f} M parameters after shrinking")

    def build() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = model_class(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        return model, optimizer

    return build


def judge(build: Callable[[], tuple[Any, Any]]) -> tuple[list[Any], list[str]]:
    """The findings of one architecture, and where gradlint differs from a real backward."""
    from gradlint.engine.check import Options, check_setup
    from gradlint.load.inputs.find import find_inputs
    from gradlint.rulekit import registry

    model, _ = build()
    model.train()
    count = {name: p.numel() for name, p in model.named_parameters()}
    if sum(count.values()) > LARGEST:
        raise NotRun(f"{sum(count.values()) / 1e6:.0f} M parameters after shrinking")

    def run(args: Any, kwargs: Any) -> Any:
        torch.manual_seed(0)
        with torch.no_grad():
            return model(*args, **kwargs)

    found = find_inputs(model, run)

    def project() -> dict[str, Any]:
        model, optimizer = build()
        return {"model": model, "optimizer": optimizer, "inputs": found.kwargs or found.args}

    report = check_setup(project, registry.load(packs=False).rules, Options(), "stock")
    if report.errors:
        raise NotRun(report.errors[0].message.splitlines()[0])
    return report.findings, list(differences(build, found, report))


def differences(build: Callable[[], tuple[Any, Any]], found: Any, report: Any) -> Iterator[str]:
    """Where the findings are not what a backward by hand shows."""
    from gradlint.load.inputs.values import all_tensors
    from gradlint.recorder.user_code import seed

    model, _ = build()
    model.train()
    seed()
    output = model(*found.args, **found.kwargs)
    loss = getattr(output, "loss", None)
    if loss is None:
        floating = [t for t in all_tensors(output) if t.is_floating_point() and t.requires_grad]
        loss = sum(t.sum() for t in floating) if floating else None
    lost = {name for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.backward()
        lost = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    told: set[str] = set()
    zero: set[str] = set()
    for finding in report.findings:
        if finding.code in ("GL405", "GL401", "GL402", "GL403", "GL404"):
            told |= set(finding.parameters)
            if finding.code == "GL404":
                zero |= set(finding.parameters)
    if any(f.code == "GL406" for f in report.findings):
        return
    if missing := sorted(lost - told):
        yield f"no gradient and not reported: {missing[:4]} ({len(missing)})"
    if false := sorted(told - lost - zero):
        yield f"reported and has gradient: {false[:4]} ({len(false)})"


def run(kind: str, names: list[str]) -> dict[str, Any]:
    """One architecture: its entry in the snapshot."""
    reasons: list[str] = []
    for name in names[:3]:
        for level in range(3):
            try:
                with limited(SECONDS), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    findings, wrong = judge(builder(kind, name, level))
            except NotRun as error:
                reasons.append(f"{name}@{level}: {error}")
                continue
            except (Exception, SystemExit) as error:
                first = next((line for line in str(error).splitlines() if line.strip()), "")
                reasons.append(f"{name}@{level}: {type(error).__name__}: {first[:300]}")
                continue
            return {"class": name, "level": level, "findings": findings, "wrong": wrong}
    return {"reason": reasons[0] if reasons else "no class", "reasons": reasons}


def summary(findings: list[Any]) -> str:
    """What the snapshot keeps of findings: how many of which severity and code."""
    rows = collections.Counter(f"{f.severity} {f.code}" for f in findings)
    return ", ".join(f"{row} x{count}" for row, count in sorted(rows.items()))


def snapshot() -> dict[str, Any]:
    """The reviewed findings: ``ran`` is architecture → [class, size, findings], ``not run`` architecture → reason."""
    kept: dict[str, Any] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return kept


def write(results: dict[str, Any]) -> None:
    """Put results, in what is kept already, into the snapshot: one architecture a line."""
    import transformers

    kept = snapshot() if SNAPSHOT.exists() else {"ran": {}, "not run": {}}
    for kind, entry in results.items():
        kept["ran"].pop(kind, None)
        kept["not run"].pop(kind, None)
        if "class" in entry:
            kept["ran"][kind] = [entry["class"], entry["level"], entry["summary"]]
        else:
            kept["not run"][kind] = entry["reason"][:160]
    lines = [f' "transformers": {json.dumps(transformers.__version__)}']
    for part in ("ran", "not run"):
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kept[part].items()))
        lines.append(f' "{part}": {{\n{rows}\n }}')
    SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Run, print, and write the snapshot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all if none is named")
    parser.add_argument("--write", action="store_true", help="put what is found into the snapshot")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = architectures()
    results: dict[str, Any] = {}
    for kind in options.names or known:
        entry = run(kind, known[kind])
        for finding in entry.get("findings", ()):
            where = f"{finding.location.path}:{finding.location.line}" if finding.location else "nowhere"
            print("   ", finding.severity, finding.code, where, finding.message[:200], flush=True)
        for text in entry.get("wrong", ()):
            print("  !!", text, flush=True)
        print(kind, entry.get("class", "NOT RUN"), entry.get("level", ""), entry.get("reason", "")[:250], flush=True)
        if "class" in entry:
            entry["summary"] = summary(entry["findings"])
        results[kind] = entry
    if options.write:
        write(results)
    ran = sum("class" in entry for entry in results.values())
    print(f"{ran} run, {len(results) - ran} not run")


if __name__ == "__main__":
    main()
