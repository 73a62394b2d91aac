"""Adversarial training loops that are right as they are."""

from __future__ import annotations

import copy
import itertools
import random

import torch
import torch.nn.functional as F
from torch import nn


def generator(nz=4, nx=6):
    return nn.Sequential(nn.Linear(nz, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, nx), nn.Tanh())


def critic(nx=6):
    return nn.Sequential(nn.Linear(nx, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))


def networks():
    torch.manual_seed(0)
    return generator(), critic(), torch.randn(8, 6)


def adams(*nets):
    return [torch.optim.Adam(n.parameters(), 2e-4, betas=(0.5, 0.999)) for n in nets]


def build_dcgan():
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)
    criterion = nn.BCEWithLogitsLoss()

    def step():
        net_d.zero_grad()
        label = torch.full((8,), 1.0)
        err_real = criterion(net_d(real).view(-1), label)
        err_real.backward()
        fake = net_g(torch.randn(8, 4))
        label.fill_(0.0)
        err_fake = criterion(net_d(fake.detach()).view(-1), label)
        err_fake.backward()
        opt_d.step()
        net_g.zero_grad()
        label.fill_(1.0)
        criterion(net_d(fake).view(-1), label).backward()
        opt_g.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_wgan_gp_every_fifth():
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)
    count = itertools.count(1)

    def penalty(fake):
        eps = torch.rand(8, 1)
        mixed = (eps * real + (1 - eps) * fake).requires_grad_(True)
        score = net_d(mixed)
        (grad,) = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True, retain_graph=True)
        return ((grad.norm(2, dim=1) - 1) ** 2).mean()

    def step():
        opt_d.zero_grad()
        fake = net_g(torch.randn(8, 4)).detach()
        (net_d(fake).mean() - net_d(real).mean() + 10 * penalty(fake)).backward()
        opt_d.step()
        if next(count) % 5 == 0:
            opt_g.zero_grad()
            (-net_d(net_g(torch.randn(8, 4))).mean()).backward()
            opt_g.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_wgan_without_detach():
    """The original: the generator's gradient of the critic's loss is cleared before it is used."""
    net_g, net_d, real = networks()
    opt_g, opt_d = torch.optim.RMSprop(net_g.parameters(), 5e-5), torch.optim.RMSprop(net_d.parameters(), 5e-5)
    one, mone = torch.tensor(1.0), torch.tensor(-1.0)

    def step():
        for p in net_d.parameters():
            p.requires_grad = True
        for _ in range(5):
            for p in net_d.parameters():
                p.data.clamp_(-0.01, 0.01)
            net_d.zero_grad()
            net_d(real).mean().backward(one)
            with torch.no_grad():
                fake = net_g(torch.randn(8, 4))
            net_d(fake).mean().backward(mone)
            opt_d.step()
        for p in net_d.parameters():
            p.requires_grad = False
        net_g.zero_grad()
        net_d(net_g(torch.randn(8, 4))).mean().backward(one)
        opt_g.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


class Pool:
    def __init__(self, size=4):
        self.size, self.images = size, []

    def query(self, images):
        found = []
        for image in images.detach():
            image = image.unsqueeze(0)
            if len(self.images) < self.size:
                self.images.append(image)
                found.append(image)
            elif random.random() > 0.5:
                i = random.randrange(self.size)
                found.append(self.images[i].clone())
                self.images[i] = image
            else:
                found.append(image)
        return torch.cat(found)


def build_cyclegan():
    torch.manual_seed(0)
    g_ab, g_ba = generator(6), generator(6)
    d_a, d_b = critic(), critic()
    opt_g = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), 2e-4)
    opt_d = torch.optim.Adam(itertools.chain(d_a.parameters(), d_b.parameters()), 2e-4)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda e: 1 - e / 100) for o in (opt_g, opt_d)]
    pool_a, pool_b = Pool(), Pool()
    a, b = torch.randn(8, 6), torch.randn(8, 6)

    def grads(nets, flag):
        for net in nets:
            for p in net.parameters():
                p.requires_grad = flag

    def gan(score, real):
        return F.mse_loss(score, torch.full_like(score, float(real)))

    def backward_d(net, real, fake):
        loss = (gan(net(real), True) + gan(net(fake.detach()), False)) * 0.5
        loss.backward()

    def step():
        fake_b, fake_a = g_ab(a), g_ba(b)
        grads([d_a, d_b], False)
        opt_g.zero_grad()
        loss = gan(d_b(fake_b), True) + gan(d_a(fake_a), True)
        loss = loss + 10 * (F.l1_loss(g_ba(fake_b), a) + F.l1_loss(g_ab(fake_a), b))
        loss = loss + 5 * (F.l1_loss(g_ab(b), b) + F.l1_loss(g_ba(a), a))
        loss.backward()
        opt_g.step()
        grads([d_a, d_b], True)
        opt_d.zero_grad()
        backward_d(d_a, a, pool_a.query(fake_a))
        backward_d(d_b, b, pool_b.query(fake_b))
        opt_d.step()
        for scheduler in schedulers:
            scheduler.step()

    model = {"g_ab": g_ab, "g_ba": g_ba, "d_a": d_a, "d_b": d_b}
    return {"model": model, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_pix2pix():
    torch.manual_seed(0)
    net_g, net_d = generator(6), critic(12)
    opt_g, opt_d = adams(net_g, net_d)
    a, b = torch.randn(8, 6), torch.randn(8, 6)
    bce = nn.BCEWithLogitsLoss()

    def step():
        fake = net_g(a)
        net_d.requires_grad_(True)
        opt_d.zero_grad()
        score = net_d(torch.cat((a, fake), 1).detach())
        real = net_d(torch.cat((a, b), 1))
        ((bce(score, torch.zeros_like(score)) + bce(real, torch.ones_like(real))) * 0.5).backward()
        opt_d.step()
        net_d.requires_grad_(False)
        opt_g.zero_grad()
        score = net_d(torch.cat((a, fake), 1))
        (bce(score, torch.ones_like(score)) + 100 * F.l1_loss(fake, b)).backward()
        opt_g.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_generator_first():
    """As in PyTorch-GAN: the generator steps first, its gradient in the discriminator is cleared after."""
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)

    def step():
        opt_g.zero_grad()
        fake = net_g(torch.randn(8, 4))
        g_loss = bce(net_d(fake), ones)
        g_loss.backward()
        opt_g.step()
        opt_d.zero_grad()
        d_loss = (bce(net_d(real), ones) + bce(net_d(fake.detach()), zeros)) / 2
        d_loss.backward()
        opt_d.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_r1_every_other_step():
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)
    average = copy.deepcopy(net_g).eval()
    count = itertools.count()

    def step():
        net_d.requires_grad_(True)
        net_g.requires_grad_(False)
        fake = net_g(torch.randn(8, 4))
        net_d.zero_grad()
        (F.softplus(net_d(fake)).mean() + F.softplus(-net_d(real)).mean()).backward()
        opt_d.step()
        if next(count) % 2 == 0:
            image = real.clone().requires_grad_(True)
            score = net_d(image)
            (grad,) = torch.autograd.grad(score.sum(), image, create_graph=True)
            net_d.zero_grad()
            (5 * grad.pow(2).sum(1).mean() * 2 + 0 * score[0].sum()).backward()
            opt_d.step()
        net_d.requires_grad_(False)
        net_g.requires_grad_(True)
        net_g.zero_grad()
        F.softplus(-net_d(net_g(torch.randn(8, 4)))).mean().backward()
        opt_g.step()
        with torch.no_grad():
            for p, q in zip(average.parameters(), net_g.parameters(), strict=True):
                p.mul_(0.9).add_(q, alpha=0.1)

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_vae_gan():
    torch.manual_seed(0)
    encoder, decoder, net_d = nn.Linear(6, 8), generator(), critic()
    opt_e, opt_g, opt_d = adams(encoder, decoder, net_d)
    x = torch.randn(8, 6)

    def step():
        mu, logvar = encoder(x).chunk(2, 1)
        recon = decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp())
        d_loss = F.softplus(net_d(recon.detach())).mean() + F.softplus(-net_d(x)).mean()
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        similarity = F.mse_loss(recon, x)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()
        adversarial = F.softplus(-net_d(recon)).mean()
        opt_e.zero_grad()
        opt_g.zero_grad()
        (kl + similarity + adversarial).backward()
        opt_e.step()
        opt_g.step()

    model = {"encoder": encoder, "decoder": decoder, "d": net_d}
    return {"model": model, "optimizer": {"e": opt_e, "g": opt_g, "d": opt_d}, "step": step}


def build_adversarial_autoencoder():
    torch.manual_seed(0)
    encoder, decoder, net_d = nn.Linear(6, 4), nn.Linear(4, 6), critic(4)
    opt_ae = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    opt_reg = torch.optim.Adam(encoder.parameters(), 1e-3)
    opt_d = torch.optim.Adam(net_d.parameters(), 1e-3)
    x = torch.randn(8, 6)

    def step():
        opt_ae.zero_grad()
        F.mse_loss(decoder(encoder(x)), x).backward()
        opt_ae.step()
        encoder.eval()
        opt_d.zero_grad()
        fake = encoder(x).detach()
        (F.softplus(net_d(fake)).mean() + F.softplus(-net_d(torch.randn(8, 4))).mean()).backward()
        opt_d.step()
        encoder.train()
        opt_reg.zero_grad()
        F.softplus(-net_d(encoder(x))).mean().backward()
        opt_reg.step()

    model = {"encoder": encoder, "decoder": decoder, "d": net_d}
    return {"model": model, "optimizer": {"ae": opt_ae, "reg": opt_reg, "d": opt_d}, "step": step}


def build_unrolled():
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)

    def d_step():
        opt_d.zero_grad()
        loss = F.softplus(net_d(net_g(torch.randn(8, 4)).detach())).mean() + F.softplus(-net_d(real)).mean()
        loss.backward()
        opt_d.step()

    def step():
        d_step()
        backup = copy.deepcopy(net_d.state_dict())
        for _ in range(2):
            d_step()
        opt_g.zero_grad()
        F.softplus(-net_d(net_g(torch.randn(8, 4)))).mean().backward()
        opt_g.step()
        net_d.load_state_dict(backup)

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}


def build_vqgan_late_discriminator():
    """As in taming-transformers: before its start the discriminator's loss is multiplied by 0."""
    torch.manual_seed(0)
    auto, net_d = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)), critic()
    opt_ae, opt_d = adams(auto, net_d)
    x = torch.randn(8, 6)
    count = itertools.count()

    def step():
        factor = 0.0 if next(count) < 1000 else 1.0
        recon = auto(x)
        nll, g_loss = F.l1_loss(recon, x), -net_d(recon).mean()
        last = auto[2].weight
        (a,) = torch.autograd.grad(nll, last, retain_graph=True)
        (b,) = torch.autograd.grad(g_loss, last, retain_graph=True)
        weight = (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach()
        opt_ae.zero_grad()
        (nll + weight * factor * g_loss).backward()
        opt_ae.step()
        opt_d.zero_grad()
        (factor * (F.relu(1 - net_d(x)).mean() + F.relu(1 + net_d(recon.detach())).mean())).backward()
        opt_d.step()

    return {"model": {"auto": auto, "d": net_d}, "optimizer": {"ae": opt_ae, "d": opt_d}, "step": step}


def build_domain_adversarial():
    torch.manual_seed(0)
    features, classes, domain = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return -grad

    optimizer = torch.optim.SGD([*features.parameters(), *classes.parameters(), *domain.parameters()], 0.1)
    xs, xt, y = torch.randn(8, 6), torch.randn(8, 6), torch.randint(0, 3, (8,))
    bce = nn.BCEWithLogitsLoss()

    def step():
        optimizer.zero_grad()
        hs, ht = features(xs), features(xt)
        loss = F.cross_entropy(classes(hs), y)
        loss = loss + bce(domain(Reverse.apply(hs)), torch.ones(8, 1))
        loss = loss + bce(domain(Reverse.apply(ht)), torch.zeros(8, 1))
        loss.backward()
        optimizer.step()

    model = {"features": features, "classes": classes, "domain": domain}
    return {"model": model, "optimizer": optimizer, "step": step}


def build_discriminator_skipped_when_strong():
    net_g, net_d, real = networks()
    opt_g, opt_d = adams(net_g, net_d)

    def step():
        d_loss = F.softplus(net_d(net_g(torch.randn(8, 4)).detach())).mean() + F.softplus(-net_d(real)).mean()
        opt_d.zero_grad()
        d_loss.backward()
        if d_loss.item() > 0.1:
            opt_d.step()
        opt_g.zero_grad()
        F.softplus(-net_d(net_g(torch.randn(8, 4)))).mean().backward()
        opt_g.step()

    return {"model": {"g": net_g, "d": net_d}, "optimizer": {"g": opt_g, "d": opt_d}, "step": step}
