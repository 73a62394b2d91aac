"""Runs ``gradlint run`` over public training scripts, as they are and with seeded mistakes; no part of the test suite.

    python tests/public_scripts.py FOLDER [NAME...]

FOLDER holds clones of pytorch/examples, karpathy/minGPT, eriklindernoren/PyTorch-GAN and cloneofsimo/minDiffusion, each
under its own name. Data sets are replaced by random ones of their kind. A script that is absent is passed over. Exit
status 0 when every script is clean and every mistake is found at its line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STAND_INS = """
import torch
# Some builds of torchvision come without their C++ part, which no data set needs.
register = torch.library.register_fake
def register_fake(name, *args, **kwargs):
    return (lambda f: f) if str(name).startswith("torchvision") else register(name, *args, **kwargs)
torch.library.register_fake = register_fake
try:
    import torchvision.datasets as datasets
    from PIL import Image
except Exception:
    datasets = None
if datasets is not None:
    class Digits(torch.utils.data.Dataset):
        def __init__(self, root=None, train=True, transform=None, target_transform=None, download=False, **kwargs):
            self.transform = transform
            self.data = torch.randint(0, 255, (600, 28, 28), dtype=torch.uint8)
            self.targets = torch.arange(600) % 10
        def __len__(self):
            return 600
        def __getitem__(self, index):
            image = Image.fromarray(self.data[index].numpy())
            return (self.transform(image) if self.transform else image), int(self.targets[index])
    datasets.MNIST = datasets.mnist.MNIST = Digits
"""


@dataclass(frozen=True)
class Script:
    """One public script, and mistakes to seed: (text, its replacement, code, a piece of the blamed line)."""

    path: str
    arguments: str = ""
    prepare: str = ""
    """Shell commands to run first, in the script's folder."""
    mistakes: tuple[tuple[str, str, str, str], ...] = ()
    allowed: tuple[str, ...] = ()
    """Codes of true findings in the script as it is."""


SCRIPTS = {
    "regression": Script("examples/regression/main.py"),
    "dcgan": Script(
        "examples/dcgan/main.py",
        "--dataset fake --batchSize 4 --workers 0 --outf .",
        mistakes=(
            ("        optimizerD.step()", "        pass", "GL503", "backward()"),
            ("        netD.zero_grad()", "        pass", "GL501", "errD_real.backward()"),
            ("optim.Adam(netG.parameters()", "optim.Adam(netD.parameters()", "GL305|GL302", "optim.Adam("),
        ),
    ),
    "vae": Script(
        "examples/vae/main.py",
        "--epochs 1 --batch-size 16",
        mistakes=(
            ("        optimizer.zero_grad()", "        pass", "GL501", "loss.backward()"),
            ("return self.decode(z), mu, logvar", "return self.decode(z.detach()), mu, logvar", "GL40", "detach"),
            ("        optimizer.step()", "        pass", "GL503", "loss.backward()"),
        ),
    ),
    "word language model": Script(
        "examples/word_language_model/main.py",
        "--model LSTM --emsize 16 --nhid 16 --batch_size 4 --epochs 1",
        "cd data/wikitext-2; for f in train valid test; do yes 'the cat sat on the mat' | head -300 > $f.txt; done",
    ),
    "actor critic": Script(
        "examples/reinforcement_learning/actor_critic.py",
        mistakes=(
            ("    optimizer.zero_grad()", "    pass", "GL501", "loss.backward()"),
            (
                "value_losses.append(F.smooth_l1_loss(value,",
                "value_losses.append(F.smooth_l1_loss(value.detach(),",
                "GL40",
                "detach",
            ),
            ("    optimizer.step()", "    pass", "GL503", "loss.backward()"),
        ),
    ),
    "siamese": Script(
        "examples/siamese_network/main.py",
        "--batch-size 4 --epochs 1",
        mistakes=(
            ("        optimizer.zero_grad()", "        pass", "GL501", "loss.backward()"),
            (
                "        loss.backward()\n        optimizer.step()",
                "        loss.backward()\n        optimizer.zero_grad()\n        optimizer.step()",
                "GL504",
                "optimizer.step()",
            ),
            ("    model.train()\n", "    model.eval()\n", "GL505", "model.eval()"),
        ),
    ),
    "time sequence": Script(
        "examples/time_sequence_prediction/train.py",
        "--steps 2",
        "python generate_sine_wave.py",
        mistakes=(("            optimizer.zero_grad()", "            pass", "GL501", "loss.backward()"),),
    ),
    "char gpt": Script(
        "minGPT/projects/chargpt/chargpt.py",
        "--model.model_type=gpt-nano --trainer.batch_size=4 --data.block_size=16",
        "yes 'to be or not to be that is the question' | head -200 > input.txt",
    ),
    "wgan-gp": Script(
        "PyTorch-GAN/implementations/wgan_gp/wgan_gp.py",
        "--batch_size 8 --n_epochs 1",
        mistakes=(
            ("        optimizer_D.step()", "        pass", "GL503", "d_loss.backward()"),
            ("        optimizer_D.zero_grad()", "        pass", "GL501", "d_loss.backward()"),
            ("        create_graph=True,", "        create_graph=False,", "GL411", "autograd.grad"),
        ),
    ),
    "gan": Script("PyTorch-GAN/implementations/gan/gan.py", "--batch_size 8 --n_epochs 1"),
    "aae": Script("PyTorch-GAN/implementations/aae/aae.py", "--batch_size 8 --n_epochs 1"),
    "diffusion": Script(
        "minDiffusion/superminddpm.py",
        prepare="sed -i 's/num_workers=20/num_workers=2/; s/batch_size=128/batch_size=4/' superminddpm.py",
        mistakes=(
            ("            optim.zero_grad()", "            pass", "GL501", "loss.backward()"),
            ("            optim.step()", "            pass", "GL503", "loss.backward()"),
        ),
    ),
}


def check(script: Path, arguments: str, environment: dict[str, str]) -> tuple[dict, float]:
    """The report on a script, and the seconds it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "gradlint", "run", script.name, "--output-format", "json", "--timeout", "120"]
    done = subprocess.run(
        [*command, "--", *arguments.split()], cwd=script.parent, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout), time.monotonic() - began


def told(report: dict) -> list[str]:
    """The findings and errors of a report, one line each."""
    lines = [f"{f['code']} {Path(f['path']).name}:{f['line']} {f['message'][:100]}" for f in report["findings"]]
    return lines + [f"error: {e['message']}" for e in report["errors"]]


def main(folder: Path, names: list[str]) -> int:
    """Run all, print a line for each; returns the exit status."""
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "sitecustomize.py").write_text(STAND_INS, encoding="utf-8")
        paths = [scratch, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        for name, spec in SCRIPTS.items():
            source = folder / spec.path
            if (names and name not in names) or not source.is_file():
                continue
            project = Path(spec.path).parts[0]
            copy = Path(scratch) / name.replace(" ", "_") / project
            shutil.copytree(folder / project, copy, ignore=shutil.ignore_patterns(".git"))
            script = copy.parent / spec.path
            root = str(copy)
            environment["PYTHONPATH"] = os.pathsep.join([scratch, root, *paths[1:]])
            if spec.prepare:
                subprocess.run(["bash", "-c", spec.prepare], cwd=script.parent, env=environment, capture_output=True)
            text = script.read_text(encoding="utf-8")
            report, seconds = check(script, spec.arguments, environment)
            wrong = [line for line in told(report) if line.partition(" ")[0] not in spec.allowed]
            faults += bool(wrong)
            print(f"{'WRONG' if wrong else 'clean'} {name} ({seconds:.0f} s)", *wrong, sep="\n      ", flush=True)
            for old, new, code, piece in spec.mistakes:
                if old not in text:
                    print(f"  NOT SEEDED {old.strip()!r}")
                    faults += 1
                    continue
                script.write_text(text.replace(old, new, 1), encoding="utf-8")
                report, seconds = check(script, spec.arguments, environment)
                lines = script.read_text(encoding="utf-8").splitlines()
                hit = any(
                    f["code"].startswith(tuple(code.split("|"))) and piece in lines[f["line"] - 1]
                    for f in report["findings"]
                    if Path(f["path"]).name == script.name
                )
                faults += not hit
                what = f"{old.strip()[:40]!r} -> {new.strip()[:40]!r}"
                print(f"  {'found ' if hit else 'MISSED'} {code} {what} ({seconds:.0f} s)", flush=True)
                if not hit:
                    print(*told(report), sep="\n      ", flush=True)
            script.write_text(text, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
