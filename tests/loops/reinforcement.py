"""Reinforcement and meta-learning loops that are right as they are."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 16), nn.ReLU(), nn.Linear(16, o))


def adam(*nets):
    return torch.optim.Adam([p for n in nets for p in n.parameters()], 3e-4)


def batch():
    torch.manual_seed(0)
    return torch.randn(8, 3), torch.rand(8, 2) * 2 - 1, torch.randn(8, 1), torch.randn(8, 3)


def build_ddpg():
    s, a, r, s2 = batch()
    actor, critic = mlp(3, 2), mlp(5, 1)
    actor_t, critic_t = copy.deepcopy(actor), copy.deepcopy(critic)
    opt_a, opt_c = adam(actor), adam(critic)

    def step():
        with torch.no_grad():
            y = r + 0.99 * critic_t(torch.cat([s2, actor_t(s2)], 1))
        opt_c.zero_grad()
        F.mse_loss(critic(torch.cat([s, a], 1)), y).backward()
        opt_c.step()
        opt_a.zero_grad()
        (-critic(torch.cat([s, actor(s)], 1)).mean()).backward()
        opt_a.step()
        for net, target in ((actor, actor_t), (critic, critic_t)):
            for p, t in zip(net.parameters(), target.parameters(), strict=True):
                t.data.copy_(0.995 * t.data + 0.005 * p.data)

    model = {"actor": actor, "critic": critic, "actor_t": actor_t, "critic_t": critic_t}
    return {"model": model, "optimizer": {"a": opt_a, "c": opt_c}, "step": step}


def build_td3_delayed():
    s, a, r, s2 = batch()
    actor, one, two = mlp(3, 2), mlp(5, 1), mlp(5, 1)
    targets = [copy.deepcopy(n).requires_grad_(False) for n in (actor, one, two)]
    opt_a, opt_c = adam(actor), adam(one, two)
    count = [0]

    def step():
        count[0] += 1
        sa2 = torch.cat([s2, targets[0](s2)], 1)
        y = r + 0.99 * torch.min(targets[1](sa2), targets[2](sa2))
        opt_c.zero_grad()
        sa = torch.cat([s, a], 1)
        (F.mse_loss(one(sa), y) + F.mse_loss(two(sa), y)).backward()
        opt_c.step()
        if count[0] % 2 == 0:
            opt_a.zero_grad()
            (-one(torch.cat([s, actor(s)], 1)).mean()).backward()
            opt_a.step()

    return {"model": {"actor": actor, "one": one, "two": two}, "optimizer": {"a": opt_a, "c": opt_c}, "step": step}


def build_sac():
    s, a, r, s2 = batch()
    actor, critic = mlp(3, 4), mlp(5, 1)
    target = copy.deepcopy(critic).requires_grad_(False)
    log_alpha = torch.zeros(1, requires_grad=True)
    opts = {"actor": adam(actor), "critic": adam(critic), "alpha": torch.optim.Adam([log_alpha], 3e-4)}

    def sample(obs):
        mean, log_std = actor(obs).chunk(2, 1)
        dist = Normal(mean, log_std.clamp(-5, 2).exp())
        action = dist.rsample()
        return torch.tanh(action), dist.log_prob(action).sum(1, keepdim=True)

    def step():
        with torch.no_grad():
            a2, logp2 = sample(s2)
            y = r + 0.99 * (target(torch.cat([s2, a2], 1)) - log_alpha.exp() * logp2)
        opts["critic"].zero_grad()
        F.mse_loss(critic(torch.cat([s, a], 1)), y).backward()
        opts["critic"].step()
        new, logp = sample(s)
        opts["actor"].zero_grad()
        (log_alpha.exp().detach() * logp - critic(torch.cat([s, new], 1))).mean().backward()
        opts["actor"].step()
        opts["alpha"].zero_grad()
        (-(log_alpha * (logp - 2).detach()).mean()).backward()
        opts["alpha"].step()
        with torch.no_grad():
            for p, t in zip(critic.parameters(), target.parameters(), strict=True):
                t.lerp_(p, 0.005)

    return {"model": {"actor": actor, "critic": critic}, "optimizer": opts, "step": step}


def build_ppo():
    s, _, _, _ = batch()
    policy, value = mlp(3, 2), mlp(3, 1)
    optimizer = adam(policy, value)

    def step():
        with torch.no_grad():
            dist = Categorical(logits=policy(s))
            action = dist.sample()
            old = dist.log_prob(action)
            returns = torch.randn(8)
            advantage = returns - value(s).squeeze(1)
        for _ in range(4):
            dist = Categorical(logits=policy(s))
            ratio = (dist.log_prob(action) - old).exp()
            clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            loss = -clipped.mean() + 0.5 * F.mse_loss(value(s).squeeze(1), returns) - 0.01 * dist.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*policy.parameters(), *value.parameters()], 0.5)
            optimizer.step()

    return {"model": {"policy": policy, "value": value}, "optimizer": optimizer, "step": step}


def build_reinforce():
    policy = mlp(3, 2)
    optimizer = adam(policy)
    saved, rewards = [], []

    def step():
        state = torch.randn(3)
        for _ in range(5):
            dist = Categorical(logits=policy(state))
            action = dist.sample()
            saved.append(dist.log_prob(action))
            rewards.append(float(action))
            state = torch.randn(3)
        returns = torch.tensor(rewards)
        loss = torch.stack([-lp * r for lp, r in zip(saved, returns, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        del saved[:], rewards[:]

    return {"model": policy, "optimizer": optimizer, "step": step}


def build_actor_critic_shared():
    s, _, _, _ = batch()
    body, pi, v = nn.Linear(3, 16), nn.Linear(16, 2), nn.Linear(16, 1)
    optimizer = adam(body, pi, v)

    def step():
        h = torch.relu(body(s))
        dist, value = Categorical(logits=pi(h)), v(h).squeeze(1)
        returns = torch.randn(8)
        advantage = returns - value.detach()
        loss = -(dist.log_prob(dist.sample()) * advantage).mean() + F.smooth_l1_loss(value, returns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": {"body": body, "pi": pi, "v": v}, "optimizer": optimizer, "step": step}


def build_two_losses_two_backwards():
    """Actor and critic with optimizers of their own, both backwards before both steps."""
    s, _, _, _ = batch()
    actor, critic = mlp(3, 2), mlp(3, 1)
    opt_a, opt_c = adam(actor), adam(critic)

    def step():
        dist, value = Categorical(logits=actor(s)), critic(s).squeeze(1)
        advantage = torch.randn(8) - value
        opt_a.zero_grad()
        opt_c.zero_grad()
        (-(dist.log_prob(dist.sample()) * advantage.detach()).mean()).backward()
        advantage.pow(2).mean().backward()
        opt_a.step()
        opt_c.step()

    return {"model": {"actor": actor, "critic": critic}, "optimizer": {"a": opt_a, "c": opt_c}, "step": step}


def build_dqn_with_target():
    s, _, r, s2 = batch()
    net, target = mlp(3, 2), mlp(3, 2)
    target.load_state_dict(net.state_dict())
    target.eval()
    optimizer = adam(net)
    count = [0]

    def step():
        q = net(s).gather(1, torch.randint(0, 2, (8, 1)))
        with torch.no_grad():
            y = r + 0.99 * target(s2).max(1, keepdim=True).values
        loss = F.smooth_l1_loss(q, y)
        optimizer.zero_grad()
        loss.backward()
        for p in net.parameters():
            p.grad.data.clamp_(-1, 1)
        optimizer.step()
        count[0] += 1
        if count[0] % 2 == 0:
            target.load_state_dict(net.state_dict())

    return {"model": {"net": net, "target": target}, "optimizer": optimizer, "step": step}


def tasks():
    torch.manual_seed(0)
    return [(torch.rand(5, 1), torch.rand(5, 1), torch.rand(5, 1), torch.rand(5, 1)) for _ in range(2)]


def build_maml_second_order():
    model = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
    optimizer = adam(model)
    data = tasks()

    def step():
        optimizer.zero_grad()
        for sx, sy, qx, qy in data:
            weights = dict(model.named_parameters())
            loss = F.mse_loss(torch.func.functional_call(model, weights, sx), sy)
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            fast = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), grads, strict=True)}
            F.mse_loss(torch.func.functional_call(model, fast, qx), qy).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def build_first_order_maml():
    model = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
    optimizer = adam(model)
    data = tasks()

    def step():
        optimizer.zero_grad()
        for sx, sy, qx, qy in data:
            learner = copy.deepcopy(model)
            inner = torch.optim.SGD(learner.parameters(), 0.1)
            for _ in range(2):
                inner.zero_grad()
                F.mse_loss(learner(sx), sy).backward()
                inner.step()
            inner.zero_grad()
            F.mse_loss(learner(qx), qy).backward()
            for p, q in zip(model.parameters(), learner.parameters(), strict=True):
                p.grad = q.grad.clone() if p.grad is None else p.grad + q.grad
        optimizer.step()

    return {"model": model, "optimizer": optimizer, "step": step}


def build_reptile():
    model = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
    data = tasks()

    def step():
        before = copy.deepcopy(model.state_dict())
        inner = torch.optim.SGD(model.parameters(), 0.1)
        for sx, sy, _, _ in data:
            inner.zero_grad()
            F.mse_loss(model(sx), sy).backward()
            inner.step()
        after = model.state_dict()
        model.load_state_dict({n: before[n] + 0.5 * (after[n] - before[n]) for n in before})

    return {"model": model, "step": step}


def build_byol():
    x1, x2 = torch.randn(8, 3), torch.randn(8, 3)
    online, predictor = mlp(3, 4), mlp(4, 4)
    target = copy.deepcopy(online)
    for p in target.parameters():
        p.requires_grad = False
    optimizer = adam(online, predictor)

    def step():
        with torch.no_grad():
            t1, t2 = target(x1), target(x2)
        loss = -F.cosine_similarity(predictor(online(x1)), t2).mean()
        loss = loss - F.cosine_similarity(predictor(online(x2)), t1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for p, q in zip(target.parameters(), online.parameters(), strict=True):
            p.data = p.data * 0.99 + q.data * 0.01

    return {"model": {"online": online, "predictor": predictor, "target": target}, "optimizer": optimizer, "step": step}


def build_moco():
    q_net, k_net = mlp(3, 4), mlp(3, 4)
    k_net.load_state_dict(q_net.state_dict())
    for p in k_net.parameters():
        p.requires_grad = False
    queue = F.normalize(torch.randn(4, 16), dim=0)
    optimizer = torch.optim.SGD(q_net.parameters(), 0.03)
    x1, x2 = torch.randn(8, 3), torch.randn(8, 3)

    def step():
        nonlocal queue
        q = F.normalize(q_net(x1), dim=1)
        with torch.no_grad():
            for a, b in zip(k_net.parameters(), q_net.parameters(), strict=True):
                a.data = a.data * 0.999 + b.data * 0.001
            k = F.normalize(k_net(x2), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().detach()], 1) / 0.07
        loss = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([k.T, queue[:, 8:]], 1)

    return {"model": {"q": q_net, "k": k_net}, "optimizer": optimizer, "step": step}


def build_dino():
    student, teacher = mlp(3, 4), mlp(3, 4)
    teacher.load_state_dict(student.state_dict())
    for p in teacher.parameters():
        p.requires_grad = False
    center = torch.zeros(1, 4)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    x1, x2 = torch.randn(8, 3), torch.randn(8, 3)
    count = [0]

    def step():
        s = student(x1) / 0.1
        t = F.softmax((teacher(x2) - center) / 0.04, -1).detach()
        loss = torch.sum(-t * F.log_softmax(s, -1), -1).mean()
        optimizer.zero_grad()
        loss.backward()
        if count[0] < 1:
            student[2].weight.grad = None  # the last layer is held still in the first epoch
        count[0] += 1
        optimizer.step()
        with torch.no_grad():
            center.mul_(0.9).add_(teacher(x2).mean(0, keepdim=True), alpha=0.1)
            for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
                a.data.mul_(0.99).add_(0.01 * b.detach().data)

    return {"model": {"student": student, "teacher": teacher}, "optimizer": optimizer, "step": step}


def build_gradient_descent_by_hand():
    model = mlp(3, 2)
    x, y = torch.randn(8, 3), torch.randn(8, 2)

    def step():
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad

    return {"model": model, "inputs": (x,), "step": step}


def build_learned_loss_weights():
    model = mlp(3, 2)
    log_vars = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([{"params": model.parameters()}, {"params": [log_vars], "weight_decay": 0}], 1e-3)
    x, y = torch.randn(8, 3), torch.randn(8, 2)

    def step():
        out = model(x)
        losses = torch.stack([F.mse_loss(out, y), out.abs().mean()])
        optimizer.zero_grad()
        (losses * (-log_vars).exp() + log_vars).sum().backward()
        optimizer.step()

    return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}


def build_world_model():
    """Dreamer-like: the policy learns through a model that its optimizer does not hold, all cleared in time."""
    world, actor = mlp(5, 3), mlp(3, 2)
    opt_w, opt_a = adam(world), adam(actor)
    s, a, _, s2 = batch()

    def step():
        opt_w.zero_grad()
        F.mse_loss(world(torch.cat([s, a], 1)), s2).backward()
        opt_w.step()
        state, total = s, 0
        for _ in range(3):
            state = world(torch.cat([state, torch.tanh(actor(state))], 1))
            total = total + state.mean()
        opt_a.zero_grad()
        (-total).backward()
        opt_a.step()

    return {"model": {"world": world, "actor": actor}, "optimizer": {"w": opt_w, "a": opt_a}, "step": step}
