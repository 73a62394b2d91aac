"""The order of training: what each statement of a function does to gradients and modes."""

from __future__ import annotations

import ast

from cases import each

from gradlint.source.file import SourceModule
from gradlint.source.text import SourceText
from gradlint.source.training_order import CodeEffect, EffectKind, FunctionEffects

HEAD = "import torch\nfrom torch import nn\n"


def in_words(effect: CodeEffect) -> str:
    words = [
        effect.kind.name.lower(),
        effect.object_name,
        f"({' '.join(sorted(effect.argument_names))})" if effect.argument_names else "",
        f"of {effect.trained_model}" if effect.trained_model else "",
        "" if effect.is_unconditional else "perhaps",
        "ending" if effect.is_before_exit else "",
        "" if effect.is_grad_enabled else "gradless",
        "" if effect.is_own else "elsewhere",
        "" if effect.is_known_optimizer else "unproven",
    ]
    return " ".join(filter(None, words))


def effects(text: str) -> list[str]:
    """Return the effects of the function `it` in words."""
    module = SourceModule(SourceText("m.py", (HEAD + text).encode()))
    [function] = [f for f in module.tree.nodes(ast.FunctionDef) if f.name == "it"]
    found = FunctionEffects(module, function)
    return [in_words(effect) for statement in function.body for effect in found.of(statement)]


@each(
    ("statement", "expected"),
    [
        ('p.grad = None', 'access_grad'),
        ('p.grad.norm()', 'call p.grad.norm; unknown p.grad.norm'),
        ('p.grad.clamp_(1)', 'call p.grad.clamp_; unknown p.grad.clamp_; access_grad'),
        ('p.grad.norm = 3', ''),
        ('if p.grad is None: pass', ''),
        ('opt.zero_grad()', 'clear_grad opt'),
        ('opt.zero_grad', ''),
        ('f(opt.zero_grad)', 'call f (opt.zero_grad); unknown f (opt.zero_grad); clear_grad opt'),
        ('net.training = False', 'train_mode net'),
        ('x = net.training', ''),
        ('loss.backward()', 'backward (loss)'),
        ('loss.backward(retain_graph=True)', 'backward (loss)'),
        ('engine.backward(loss, net=net)', 'unknown (engine loss net)'),
        ('scaler.scale(loss).backward()', 'backward ()'),
        ('opt.step()', 'step opt unproven'),
        ('opt.step(closure)', 'unknown (closure opt)'),
        ('scaler.step(opt)', 'step opt unproven'),
        ('scaler.step(optimizer=opt)', 'unknown (opt scaler)'),
        ('runner.step(opt)', 'unknown (opt runner)'),
        ('scheduler.step()', ''),
        ('optim_sched.step()', ''),
        ('env.step(action)', 'unknown (action env)'),
        ('thing_opt.step()', 'step thing_opt unproven'),
        ('opt_d.step()', 'step opt_d unproven'),
        ('opts[0].step()', 'step opts[0] unproven'),
        ('copt.step()', ''),
        ('net.eval()', 'eval_mode net'),
        ('net.eval(3)', 'call net.eval; unknown net.eval'),
        ('net.train()', 'train_mode net'),
        ('net.train(False)', 'eval_mode net'),
        ('net.train(mode=False)', 'eval_mode net'),
        ('net.train(flag)', 'train_mode net'),
        ('net.item()', ''),
        ('net.save()', 'call net.save; unknown net.save'),
        ('print(net)', ''),
        ('helper(net)', 'call helper (net); unknown helper (net)'),
        ('torch.save(net)', ''),
        ('torch.autograd.grad(loss)', 'unknown torch.autograd.grad (loss); access_grad'),
        ('torch.nn.utils.clip_grad_norm_(net.parameters(), 1)', ''),
        ('torch.nn.utils.parametrize(net)', 'unknown torch.nn.utils.parametrize (net)'),
        ('helper(net.parameters(), *rest, key=other)', 'call helper (net other rest); unknown helper (net other rest)'),
        (
            'helper(net.module, net._orig_mod, nets[0], f(), net.x)',
            'call helper (net net.x nets[0]); unknown helper (net net.x nets[0]); call f; unknown f',
        ),
        ('(lambda: 0)(net)', 'call (net); unknown (net)'),
        ('if c: opt.step()', 'step opt perhaps unproven'),
        ('if c: pass\n    else: opt.step()', 'step opt perhaps unproven'),
        ('for i in x: opt.step()', 'step opt perhaps unproven'),
        ('for i in x: pass\n    else: opt.step()', 'step opt perhaps unproven'),
        ('while opt.step(): pass', 'step opt unproven'),
        ('if opt.step(): pass', 'step opt unproven'),
        ('c and opt.step()', 'step opt perhaps unproven'),
        ('opt.step() if c else 0', 'step opt perhaps unproven'),
        ('try: opt.step()\n    except E: net.eval()', 'step opt perhaps unproven; eval_mode net perhaps'),
        ('match c:\n        case 1: opt.step()', 'step opt perhaps unproven'),
        ('match c:\n        case _ if opt.step(): pass', 'step opt perhaps unproven'),
        ('with torch.no_grad(): net(x)', 'call net (x) gradless; unknown net (x) gradless'),
        ('with torch.no_grad: net(x)', 'call net (x) gradless; unknown net (x) gradless'),
        ('with a, torch.inference_mode(): net(x)', 'call net (x) gradless; unknown net (x) gradless'),
        ('with autocast(): net(x)', 'call autocast; unknown autocast; call net (x); unknown net (x)'),
        ('if c:\n        opt.step()\n        return', 'step opt perhaps ending unproven'),
        ('if c:\n        raise opt.step()', 'step opt perhaps ending unproven'),
        ('for i in x:\n        opt.step()\n        break', 'step opt perhaps ending unproven'),
        ('for i in x:\n        if c:\n            opt.step()\n        break', 'step opt perhaps ending unproven'),
        ('def g():\n        opt.step()\n        return', ''),
        ('return opt.step()', 'step opt unproven'),
    ],
)  # fmt: skip
def test_effects_of_a_statement(statement: str, expected: str) -> None:
    assert "; ".join(effects(f"def it(p, opt, net, loss):\n    {statement}\n")) == expected


PROGRAMS = {
    "methods of the object itself": (
        """
class T:
    def __init__(self, net):
        self.net = net
        self.opt = torch.optim.SGD(self.net.parameters(), 0.1)
        self.sched = Sched(self.opt)
        self.own_opt = Own(1)
    def it(self):
        self.opt.step()
        self.helper(self.net)
        self.inherited()
        self.sched.step()
        self.own_opt.step()
        self.net(x)
        other.helper(self.net)
    def helper(self, net):
        net.eval()
        self.opt.zero_grad()
""",
        """
step self.opt of self.net
eval_mode self.net elsewhere
clear_grad self.opt elsewhere
call self.inherited
unknown inherited:self.inherited
step self.own_opt unproven
call self.net (x)
unknown self.net (x)
call other.helper (self.net)
unknown other.helper (self.net)
""",
    ),
    "an optimizer is known by how it is made": (
        """
class Own:
    pass
def it():
    opt = Own()
    opt.step()
    optim = torch.optim.SGD(net.parameters(), 0.1)
    optim.step()
    other = torch.optim.SGD([w], 0.1)
    other.step()
    thing = torch.zeros(2)
    thing.step()
""",
        """
call Own
unknown Own
step optim of net
step other
""",
    ),
    "names of the function that is called": (
        """
def helper(a, b, *, c=None):
    local = a
    local.eval()
    a.train()
    a.module.eval()
    b.step()
    c.zero_grad()
    glob.eval()
    a.x.eval()
    f().eval()
def it(net, opt, scaler):
    helper(net, opt, c=opt)
    helper(make(), opt)
    helper(*net)
""",
        """
eval_mode helper:local elsewhere
train_mode net elsewhere
eval_mode net elsewhere
clear_grad opt elsewhere
eval_mode glob elsewhere
eval_mode net.x elsewhere
eval_mode elsewhere
call f elsewhere
unknown f elsewhere
eval_mode helper:local elsewhere
train_mode elsewhere
eval_mode elsewhere
clear_grad helper:c elsewhere
eval_mode glob elsewhere
eval_mode elsewhere
eval_mode elsewhere
call f elsewhere
unknown f elsewhere
call make
unknown make
eval_mode helper:local elsewhere
train_mode net elsewhere
eval_mode net elsewhere
clear_grad helper:c elsewhere
eval_mode glob elsewhere
eval_mode net.x elsewhere
eval_mode elsewhere
call f elsewhere
unknown f elsewhere
""",
    ),
    "what decides whether a call runs": (
        """
def helper(net):
    if net is None:
        return
    net.eval()
    if c:
        net.train()
@torch.no_grad()
def gradless(net):
    net(x)
def gen(net):
    net.eval()
    yield 1
def recursive(net):
    net.eval()
    recursive(net)
async def later(net):
    net.eval()
def it(net):
    helper(net)
    gradless(net)
    gen(net)
    recursive(net)
    later(net)
    with torch.no_grad():
        recursive(net)
    if c:
        helper(net)
""",
        """
eval_mode net perhaps elsewhere
train_mode net perhaps elsewhere
call net (x) gradless elsewhere
unknown net (x) gradless elsewhere
eval_mode net perhaps elsewhere
eval_mode net elsewhere
call recursive (net) elsewhere
unknown recursive (net) elsewhere
call later (net)
unknown later (net)
eval_mode net gradless elsewhere
call recursive (net) gradless elsewhere
unknown recursive (net) gradless elsewhere
eval_mode net perhaps elsewhere
train_mode net perhaps elsewhere
""",
    ),
    "a static method, and keywords": (
        """
class T:
    @staticmethod
    def fixed(net):
        net.eval()
    def deep(self, opt, net):
        opt.step()
    def it(self, net):
        self.fixed(net)
        opt = torch.optim.SGD(net.parameters(), 0.1)
        self.deep(opt, net)
        self.deep(net=net, opt=opt)
        T.fixed(net)
""",
        """
eval_mode net elsewhere
step opt of net elsewhere
step opt of net elsewhere
call T.fixed (net)
unknown T.fixed (net)
""",
    ),
    "calls are followed four deep": (
        """
def f1(net):
    f2(net)
def f2(net):
    f3(net)
def f3(net):
    f4(net)
def f4(net):
    f5(net)
def f5(net):
    net.eval()
def it(net):
    f1(net)
""",
        """
call f5 (net) elsewhere
unknown f5 (net) elsewhere
""",
    ),
    "a builtin that is bound anew": (
        """
print = log
def it(net):
    print(net)
    len(net)
""",
        """
call print (net)
unknown print (net)
""",
    ),
    "a decorated function": (
        """
@torch.no_grad()
def it(net):
    net(x)
""",
        """
call net (x) gradless
unknown net (x) gradless
""",
    ),
}


@each("title", PROGRAMS)
def test_effects_of_a_program(title: str) -> None:
    text, expected = PROGRAMS[title]
    assert effects(text) == expected.split("\n")[1:-1]


@each(
    ("name", "arguments", "objects", "may"),
    [
        ("on_step_hook", (), ("opt",), True),
        ("save", (), ("opt",), False),
        ("save", ("x",), ("opt",), False),
        ("save", ("opt",), ("opt",), True),
        ("save", ("box",), ("box.opt",), True),
        ("save", ("box",), ("boxes",), False),
        ("save", ("self",), ("opt",), True),
        ("save", ("my_model",), ("opt",), True),
    ],
)
def test_unknown_call_may_affect(name: str, arguments: tuple[str, ...], objects: tuple[str, ...], may: bool) -> None:
    node = ast.parse(f"{name}()", mode="eval").body
    effect = CodeEffect(EffectKind.UNKNOWN, name, node, frozenset(arguments))
    assert effect.may_affect(objects) is may


def test_known_effect_may_affect_nothing_else() -> None:
    node = ast.parse("hook()", mode="eval").body
    assert not CodeEffect(EffectKind.STEP, "hook", node, frozenset({"self"})).may_affect(["opt"])
