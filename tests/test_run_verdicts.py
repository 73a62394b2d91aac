"""``gradlint run``: what is said of scripts, right ones and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from script import HEAD, codes, mostly_slow, run

pytestmark = pytest.mark.usefixtures("processes")

RIGHT = {
    "methods of Module that the user's class replaces": """
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.vars = nn.ParameterList([nn.Parameter(torch.randn(2, 4))])
                self.modules, self.buffers = [nn.Identity()], {}
            def parameters(self): return self.vars
            def forward(self, x): return self.modules[0](x @ self.vars[0].t())
        model = Own()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(5): iteration()
        """,
    "gradients by hand, without a backward pass": """
        for _ in range(5):
            loss = nn.functional.mse_loss(model(x), y)
            for p, g in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()])): p.grad = g
            optimizer.step()
        """,
    "ends by itself": "iteration()\niteration()",
    "goes on for ever": "while True: iteration()",
    "os._exit": "for _ in range(2): iteration()\nos._exit(0)",
    "own signal handlers": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True: iteration()
        """,
    "redirected stdout": "sys.stdout = sys.stderr = open('log.txt', 'w')\nwhile True: iteration()",
    "closed stdout": "sys.stdout.close()\nos.close(1)\nwhile True: iteration()",
    "another directory": "os.chdir('/')\nwhile True: iteration()",
    "patched torch": """
        original = torch.Tensor.backward
        torch.Tensor.backward = lambda self, *a, **k: original(self, *a, **k)
        torch.optim.Adam.step = torch.optim.Adam.step
        while True: iteration()
        """,
    "exceptions held": """
        while True:
            try: iteration()
            except Exception: pass
        """,
    "every exception held": """
        while True:
            try: iteration()
            except BaseException: pass
        """,
    "a network frozen for the other's turn": """
        critic = nn.Linear(2, 1)
        second = torch.optim.SGD(critic.parameters(), 0.1)
        while True:
            critic.requires_grad_(False)
            optimizer.zero_grad()
            critic(model(x)).mean().backward()
            optimizer.step()
            critic.requires_grad_(True)
            second.zero_grad()
            (critic(y) - critic(model(x).detach())).mean().backward()
            second.step()
        """,
    "a network frozen for a turn that is left out": """
        critic = nn.Linear(2, 1)
        second = torch.optim.SGD(critic.parameters(), 0.1)
        for i in range(1000):
            critic.requires_grad_(False)
            if i % 2:
                optimizer.zero_grad()
                critic(model(x)).mean().backward()
                optimizer.step()
            critic.requires_grad_(True)
            second.zero_grad()
            (critic(y) - critic(model(x).detach())).mean().backward()
            second.step()
        """,
    "a maker in a module of lazy parts": """
        import types
        lazy = types.ModuleType("lazy")
        lazy._modules = {"parts"}  # as that of transformers has them
        lazy.Trainer = lambda optimizer: optimizer
        optimizer = lazy.Trainer(torch.optim.SGD(model.parameters(), 0.1))
        while True: iteration()
        """,
    "exits with 0": "for _ in range(2): iteration()\nsys.exit(0)",
    "a sampler before the training": """
        with torch.no_grad():
            for _ in range(1000): model(x)
        while True: iteration()
        """,
    "a daemon thread": """
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        while True: iteration()
        """,
    "workers": """
        from torch.utils.data import DataLoader, TensorDataset
        for _ in range(100):
            for a, b in DataLoader(TensorDataset(x, y), 2, num_workers=2): iteration()
        """,
}


@pytest.mark.parametrize("name", mostly_slow(RIGHT))
def test_right_script_is_clean(tmp_path, name):
    done, report = run(tmp_path, RIGHT[name])
    assert (done.returncode, report["errors"], codes(report)) == (0, [], []), done.stderr


NO_VERDICT = {
    "never trains": ("print('nothing to do')", "the script never trained"),
    "only evaluates": ("with torch.no_grad(): model(x)", "1 call of the script's models and no backward pass"),
    "raises": ("iteration()\nraise ValueError('no data')", "the script raised ValueError: no data"),
    "raises before": ("raise FileNotFoundError('data.csv')", "the script raised FileNotFoundError: data.csv"),
    "backward from a vector": ("model(x).backward()", "the script raised RuntimeError: grad can be implicitly created"),
    "wrong usage": ("sys.exit(2)", "the script called sys.exit(2)"),
    "another thread": (
        "t = threading.Thread(target=lambda: [iteration() for _ in range(5)])\nt.start()\nt.join()",
        "the script trains outside of its main thread, where gradlint cannot follow it",
    ),
    "another thread, for ever": (
        "def work():\n    while True: iteration()\nt = threading.Thread(target=work)\nt.start()\nt.join()",
        "the script trains outside of its main thread, where gradlint cannot follow it",
    ),
    "os._exit": ("os._exit(0)", "the script called os._exit(0)"),
    "os._exit after training": ("for _ in range(2): iteration()\nos._exit(3)", "the script called os._exit(3)"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
}


@pytest.mark.parametrize("name", mostly_slow(NO_VERDICT))
def test_script_without_a_verdict_says_why(tmp_path, name):
    body, expected = NO_VERDICT[name]
    done, report = run(tmp_path, body)
    assert done.returncode == 2
    assert len(report["errors"]) == 1 and expected in report["errors"][0]["message"], report["errors"]


def test_the_main_thread_is_judged_though_another_one_trains_too(tmp_path):
    body = """
    other = nn.Linear(4, 2)
    own = torch.optim.SGD(other.parameters(), 0.1)
    def work():
        for _ in range(5):
            own.zero_grad()
            other(x).sum().backward()
            own.step()
    thread = threading.Thread(target=work)
    thread.start()
    while True: iteration(clear=False)
    """
    _, report = run(tmp_path, body)
    assert (codes(report), report["errors"]) == (["GL501"], [])


def test_a_script_that_steps_and_never_runs_backward_is_judged(tmp_path):
    done, report = run(tmp_path, "for _ in range(5):\n    nn.functional.mse_loss(model(x), y)\n    optimizer.step()")
    assert (done.returncode, codes(report), report["errors"]) == (1, ["GL504"], [])


@pytest.mark.slow
def test_a_script_that_steps_by_hand_for_ever_is_judged(tmp_path):
    body = """
    model = nn.Linear(4, 2)
    while True:
        model.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters(): p -= 0.01 * p.grad
    """
    head = "\n".join(line for line in HEAD.splitlines() if not line.startswith("optimizer = "))
    _, report = run(tmp_path, body, head=head)
    assert (report["findings"], report["errors"]) == ([], [])
    assert "50 backward passes without an optimizer" in report["notes"][0]["message"]


def test_findings_stand_on_the_lines_of_the_script(tmp_path):
    done, report = run(tmp_path, "while True: iteration(clear=False)")
    (finding,) = report["findings"]
    assert done.returncode == 1 and finding["code"] == "GL501"
    assert (tmp_path / "train.py").read_text(encoding="utf-8").splitlines()[finding["line"] - 1].strip() == (
        "loss.backward()"
    )
    assert finding["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.slow
def test_lines_are_found_after_a_script_has_changed_its_folder(tmp_path):
    _, report = run(tmp_path, "os.chdir('/')\nwhile True: iteration(clear=False)")
    assert report["findings"][0]["path"].endswith("train.py")
    assert Path(tmp_path, report["findings"][0]["path"]).exists()


def test_a_fault_of_gradlints_own_is_told_as_such_and_the_script_ended_as_ever(tmp_path):
    body = """
    from gradlint.recorder.calls.values import Tensors
    def add(*args): raise IndexError("broken")
    iteration()
    Tensors.add = add
    try:
        while True: iteration()
    except Exception as error: open("raised", "w").write(repr(error))
    finally: open("ended", "w")
    """
    done, report = run(tmp_path, body)
    assert done.returncode == 2 and report["findings"] == []
    (error,) = report["errors"]
    assert error["message"] == "gradlint itself failed while it recorded (IndexError: broken); please report it"
    assert (tmp_path / "ended").exists() and not (tmp_path / "raised").exists()


def test_a_fault_in_a_hook_is_not_told_as_the_scripts(tmp_path):
    _, report = run(
        tmp_path, "import gradlint.recorder.ledger.optimizer_steps as steps\nsteps.mark = None\niteration()"
    )
    (error,) = report["errors"]
    assert error["message"].startswith("gradlint itself failed in the script (TypeError: ")


MISTAKES = ["optimizer.zero_grad(1, 2, 3)", "model(x, y)", "torch.optim.SGD()", "model.train(1, 2)", "x @ x"]


@pytest.mark.parametrize(
    "mistake", [MISTAKES[0], *(pytest.param(text, marks=pytest.mark.slow) for text in MISTAKES[1:])]
)
def test_a_wrong_call_is_the_scripts(tmp_path, mistake):
    _, report = run(tmp_path, f"iteration()\n{mistake}")
    (error,) = report["errors"]
    assert error["message"].startswith("the script raised ")


LAYERWISE = """
class Layer(nn.Linear):
    def __init__(self, width):
        super().__init__(4, width)
        self.act = nn.ReLU()
        self.own = torch.optim.SGD([self.weight], 0.1)

    def forward(self, x):
        return self.act(nn.functional.linear(x, self.weight, self.bias))

layers = [Layer(8), Layer(6)]
for layer in layers:
    for _ in range(20):
        layer.own.zero_grad()
        layer.forward(x).square().mean().backward()
        layer.own.step()
"""


FROZEN_ENCODER = """
encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).requires_grad_(False){mode}
head = nn.Linear(8, 2)
optimizer = torch.optim.SGD(head.parameters(), 0.1)
for _ in range(5):
    optimizer.zero_grad()
    head(encoder(torch.randn(8, 4))).pow(2).mean().backward()
    optimizer.step()
"""


def test_statistics_that_move_are_found_in_one_of_two_networks(tmp_path):
    _, report = run(tmp_path, FROZEN_ENCODER.format(mode=""))
    assert codes(report) == ["GL201"]


def test_statistics_that_stay_are_clean_in_one_of_two_networks(tmp_path):
    _, report = run(tmp_path, FROZEN_ENCODER.format(mode=".eval()"))
    assert codes(report) == []


@pytest.mark.slow
def test_modules_whose_forward_is_called_by_hand_are_followed(tmp_path):
    _, report = run(tmp_path, LAYERWISE)
    assert [(f["code"], f["parameters"]) for f in report["findings"]] == [("GL302", ["bias"])]
    _, report = run(tmp_path, LAYERWISE.replace("[self.weight]", "self.parameters()"))
    assert (report["findings"], report["notes"]) == ([], [])


LATER = """
head = nn.Linear(2, 1)
both = nn.ModuleList([model, head])
for _ in range(9): iteration()
"""


def test_parameters_that_no_recorded_step_trains_are_told(tmp_path):
    _, report = run(tmp_path, LATER)
    [note] = report["notes"]
    assert note["message"].startswith("not judged: 1.* (2 tensors, 3 parameters), which no recorded step trains")


@pytest.mark.slow
def test_the_target_of_a_network_is_no_later_stage(tmp_path):
    _, report = run(tmp_path, LATER.replace("nn.Linear(2, 1)", "copy.deepcopy(model)"), head=f"import copy\n{HEAD}")
    assert report["notes"] == []


NEVER_RUN = """
import parts, excluded.parts

def after_the_epoch(outputs, targets):
    return nn.functional.cross_entropy(outputs.softmax(1), targets)

for _ in range(5): iteration()
"""


PARTS = """
from torch import nn

class Never(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4) for _ in range(3)]

    def forward(self, x):
        return self.layers[0](x)

class Allowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4) for _ in range(3)]  # gradlint: ignore[GL104]

    def forward(self, x):
        return self.layers[0](x)
"""


def test_source_rules_judge_all_files_that_ran(tmp_path):
    (tmp_path / "gradlint.toml").write_text("extend-exclude = ['excluded/']")
    (tmp_path / "excluded").mkdir()
    for name in ("parts.py", "excluded/parts.py", "not_imported.py"):
        (tmp_path / name).write_text(PARTS)
    done, report = run(tmp_path, NEVER_RUN)
    found = [(Path(f["path"]).name, f["code"], f["line"]) for f in report["findings"]]
    assert found == [("parts.py", "GL104", 7), ("train.py", "GL601", 23)], done.stderr


@pytest.mark.slow
def test_source_rules_do_not_contradict_the_recording(tmp_path):
    body = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
            for n, layer in enumerate(self.layers): setattr(self, f"layer{n}", layer)
        def forward(self, x):
            for layer in self.layers: x = layer(x)
            return x
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    while True: iteration()
    """
    _, report = run(tmp_path, body)
    assert (report["findings"], report["errors"]) == ([], [])


def test_a_layer_that_a_constructor_runs_begins_no_training(tmp_path):
    body = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Linear(4, 6)
            self.a = nn.Linear(self.features(torch.zeros(1, 4)).shape[1], 5)
            self.traced = torch.jit.trace(nn.Linear(5, 5), torch.zeros(1, 5))
            self.b = nn.Linear(5, 5)
            self.head = nn.Linear(5, 2)
        def forward(self, x):
            return self.head(self.b(self.traced(self.a(self.features(x)))).detach())
    model = Net()
    while True:
        model.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None: p -= 0.01 * p.grad
    """
    head = "\n".join(line for line in HEAD.splitlines() if not line.startswith("optimizer = "))
    _, report = run(tmp_path, body, head=head)
    (finding,) = report["findings"]
    lost = ("features", "a", "traced", "b")
    assert finding["parameters"] == [f"{layer}.{kind}" for layer in lost for kind in ("weight", "bias")]


AROUND_DDP = """
import torch.distributed as dist
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
wrapped = nn.parallel.DistributedDataParallel(model)
for _ in range(3): iteration()
"""


def test_a_wrapper_that_a_script_trains_around_is_found_at_the_call(tmp_path):
    _, report = run(tmp_path, AROUND_DDP)
    assert codes(report) == ["GL801"]
