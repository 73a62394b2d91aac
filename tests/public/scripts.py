"""The public scripts, and mistakes to seed in them."""

from __future__ import annotations

from dataclasses import dataclass

import prepare
from prepare import Preparation, replaced, text


@dataclass(frozen=True)
class Mistake:
    """A mistake to seed: the first `old` becomes `new`."""

    old: str
    new: str
    code: str
    """The code to be found, or several with | between; prefixes will do."""
    blamed: str
    """A piece of the line that is to be blamed."""
    file: str = ""
    """The file to seed it in, from the root of the repository; the script where it is empty."""


@dataclass(frozen=True)
class Script:
    """One public script."""

    path: str
    arguments: str = ""
    prepare: tuple[Preparation, ...] = ()
    """What to do first, in the script's folder."""
    mistakes: tuple[Mistake, ...] = ()
    allowed: tuple[str, ...] = ()
    """Codes of true findings in the script as it is."""
    torchvision: bool = True
    """Whether the stand-in for torchvision is on the path."""


def uncleared(call: str = "optimizer.zero_grad()", blamed: str = "loss.backward()", file: str = "") -> Mistake:
    """Gradients that are not cleared."""
    return Mistake(call, "pass", "GL501", blamed, file)


def unstepped(call: str = "optimizer.step()", blamed: str = "loss.backward()", file: str = "") -> Mistake:
    """An optimizer that never steps."""
    return Mistake(call, "pass", "GL503", blamed, file)


SCRIPTS = {
    "dcgan": Script(
        "examples/dcgan/main.py",
        "--dataset fake --batchSize 16 --workers 0 --outf .",
        mistakes=(
            unstepped("optimizerD.step()", "backward()"),
            uncleared("netD.zero_grad()", "errD_real.backward()"),
            Mistake("optim.Adam(netG.parameters()", "optim.Adam(netD.parameters()", "GL305|GL302", "optim.Adam("),
        ),
    ),
    "vae": Script(
        "examples/vae/main.py",
        "--epochs 1",
        mistakes=(
            uncleared(),
            unstepped(),
            Mistake(
                "self.decode(z), mu, logvar",
                "self.decode(z.detach()), mu.detach(), logvar.detach()",
                "GL401",
                "z.detach()",
            ),
        ),
    ),
    "mnist": Script(
        "examples/mnist/main.py",
        "--epochs 1",
        mistakes=(
            uncleared(),
            Mistake("torch.flatten(x, 1)", "torch.flatten(x.detach(), 1)", "GL401", "x.detach()"),
            Mistake("F.log_softmax(x, dim=1)", "F.relu(x)", "GL603", "nll_loss"),
            Mistake("F.nll_loss(output, target)", "F.nll_loss(output.detach(), target)", "GL40", "output.detach()"),
            Mistake(
                "optim.Adadelta(model.parameters()",
                "optim.Adadelta(__import__('copy').deepcopy(model).parameters()",
                "GL304",
                "optim.Adadelta(",
            ),
            Mistake(
                "torch.flatten(x, 1)",
                "type('Rows', (torch.autograd.Function,), {'forward': staticmethod(lambda ctx, x: x.flatten(1)), "
                "'backward': staticmethod(lambda ctx, grad: None)}).apply(x)",
                "GL408",
                "type('Rows'",
            ),
            Mistake(
                "F.nll_loss(output, target)",
                "F.nll_loss(output, target) + (0 * output).sum().sqrt()",
                "GL606",
                "sqrt()",
            ),
        ),
    ),
    "mnist rnn": Script(
        "examples/mnist_rnn/main.py",
        "--batch-size 16 --epochs 1",
        mistakes=(
            uncleared(),
            unstepped(),
            Mistake(
                "F.nll_loss(output, target)",
                "torch.tensor(F.nll_loss(output, target).item(), requires_grad=True)",
                "GL40|GL410",
                ".item()",
            ),
            Mistake("F.log_softmax(output, dim=1)", "F.log_softmax(output.round(), dim=1)", "GL404", "output.round()"),
        ),
    ),
    "forward forward": Script(
        "examples/mnist_forward_forward/main.py",
        "--train_size 2000 --test_size 1000 --epochs 20",
        mistakes=(
            uncleared("self.opt.zero_grad()"),
            unstepped("self.opt.step()"),
            Mistake("Adam(self.parameters()", "Adam([self.weight]", "GL302", "Adam("),
        ),
    ),
    "actor critic": Script(
        "examples/reinforcement_learning/actor_critic.py",
        mistakes=(
            uncleared(),
            Mistake("F.smooth_l1_loss(value,", "F.smooth_l1_loss(value.detach(),", "GL401", "value.detach()"),
            Mistake(" + torch.stack(value_losses).sum()", "", "GL412", "F.smooth_l1_loss(value,"),
            unstepped(),
        ),
    ),
    "reinforce": Script(
        "examples/reinforcement_learning/reinforce.py",
        mistakes=(
            uncleared(blamed="policy_loss.backward()"),
            Mistake("m.log_prob(action))", "m.log_prob(action).detach())", "GL40", "detach"),
            Mistake("optim.Adam(policy.parameters()", "optim.Adam(policy.affine2.parameters()", "GL302", "optim.Adam("),
        ),
    ),
    "siamese": Script(
        "examples/siamese_network/main.py",
        "--epochs 1",
        mistakes=(
            uncleared(),
            Mistake(
                "        loss.backward()\n        optimizer.step()",
                "        loss.backward()\n        optimizer.zero_grad()\n        optimizer.step()",
                "GL504",
                "optimizer.step()",
            ),
            Mistake("    model.train()\n", "    model.eval()\n", "GL505", "model.eval()"),
            Mistake(
                "loss = criterion(outputs, targets)",
                "loss = (nn.BCELoss(reduction='none')(outputs, targets) + outputs.detach().square()).mean()",
                "GL409",
                "outputs.detach()",
            ),
        ),
    ),
    "time sequence": Script(
        "examples/time_sequence_prediction/train.py",
        "--steps 20",
        (
            prepare.sine_waves,
            replaced(
                "train.py",
                ("torch.load('traindata.pt'", "torch.load('traindata.pt', weights_only=False"),
                ("future = 1000", "future = 9"),
            ),
        ),
        mistakes=(
            uncleared(),
            Mistake("self.lstm2(h_t,", "self.lstm2(h_t.detach(),", "GL401", "h_t.detach()"),
            Mistake("optim.LBFGS(seq.parameters()", "optim.LBFGS(seq.linear.parameters()", "GL302", "optim.LBFGS("),
        ),
    ),
    "char gpt": Script(
        "minGPT/projects/chargpt/chargpt.py",
        "--model.model_type=gpt-nano --data.block_size=32 --trainer.batch_size=16",
        (text("input.txt", prepare.TEXT * 50), replaced("chargpt.py", ("generate(x, 500,", "generate(x, 20,"))),
        mistakes=(
            uncleared("model.zero_grad(set_to_none=True)", "self.loss.backward()", "mingpt/trainer.py"),
            unstepped("self.optimizer.step()", "self.loss.backward()", "mingpt/trainer.py"),
            Mistake(
                "tok_emb + pos_emb)", "tok_emb + pos_emb.detach())", "GL401", "pos_emb.detach()", "mingpt/model.py"
            ),
        ),
    ),
    "nanogpt": Script(
        "nanoGPT/train.py",
        "--dataset=generated --device=cpu --compile=False --eval_iters=1 --block_size=64 --batch_size=12 --n_layer=4 "
        "--n_head=4 --n_embd=128 --dtype=float32 --gradient_accumulation_steps=4",
        (prepare.tokens,),
        mistakes=(
            uncleared("optimizer.zero_grad(set_to_none=True)", "backward()"),
            unstepped("scaler.step(optimizer)", "backward()"),
            Mistake(
                "loss = loss / gradient_accumulation_steps",
                "loss = (loss / gradient_accumulation_steps).detach().requires_grad_()",
                "GL410|GL401",
                "detach().requires_grad_()",
            ),
            Mistake("x = block(x)", "x = block(x.data)", "GL403", "x.data", "model.py"),
        ),
    ),
    "lightning gan": Script(
        "pytorch-lightning/examples/pytorch/domain_templates/generative_adversarial_net.py",
        prepare=(replaced("generative_adversarial_net.py", ('"gpu"', '"cpu"')),),
        mistakes=(
            uncleared("opt_g.zero_grad()", "self.manual_backward(g_loss)"),
            unstepped("opt_d.step()", "self.manual_backward(d_loss)"),
            Mistake("Adam(self.discriminator.parameters()", "Adam(self.generator.parameters()", "GL305|GL302", "Adam("),
            Mistake(  # both networks are frozen in turns
                "img = self.model(z)", "img = self.model[1:](self.model[0](z).detach())", "GL401", "detach()"
            ),
        ),
    ),
    "lightning autoencoder": Script(
        "pytorch-lightning/examples/pytorch/basics/autoencoder.py",
        mistakes=(
            Mistake("z = self.encoder(x)", "z = self.encoder(x).detach()", "GL401", ".detach()"),
            Mistake("Adam(self.parameters()", "Adam(self.decoder.parameters()", "GL302", "Adam("),
            Mistake(
                "        return torch.optim.Adam(",
                "        self.encoder.requires_grad_(False)\n        return torch.optim.Adam(",
                "GL301",
                "Adam(",
            ),
        ),
    ),
    "alpaca": Script(
        "stanford_alpaca/train.py",
        "--model_name_or_path opt --data_path data.json --output_dir out --num_train_epochs 2 "
        "--per_device_train_batch_size 2 --report_to none",
        (
            prepare.opt,
            prepare.instructions,
            replaced("train.py", ("tokenizer=tokenizer, args", "processing_class=tokenizer, args")),
        ),
        mistakes=(
            Mistake(  # the embedding's output requires grad, although nothing trains
                "    trainer = Trainer(model=model, ",
                "    model.requires_grad_(False)\n"
                "    model.enable_input_require_grads()\n"
                "    trainer = Trainer(model=model, ",
                "GL308",
                "requires_grad_(False)",
            ),
            Mistake(
                "Trainer(model=model, ",
                "Trainer(model=model, optimizers=(torch.optim.AdamW(model.model.decoder.layers.parameters()), None), ",
                "GL302",
                "AdamW(",
            ),
            Mistake(
                "    trainer = Trainer(model=model, ",
                "    model.model.decoder.layers[0].requires_grad_(False)\n"
                "    trainer = Trainer(model=model, optimizers=(torch.optim.AdamW(model.parameters()), None), ",
                "GL301",
                "AdamW(",
            ),
            Mistake(
                "def train():\n",
                "class Trainer(transformers.Trainer):\n"
                "    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):\n"
                "        hidden = model.model(inputs['input_ids'], attention_mask=inputs['attention_mask'])[0]\n"
                "        logits = model.lm_head(hidden.detach())\n"
                "        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs['labels'].flatten())\n\n"
                "def train():\n",
                "GL401",
                "hidden.detach()",
            ),
        ),
        torchvision=False,
    ),
    "accelerate": Script(
        "accelerate/examples/nlp_example.py",
        "--cpu",
        (prepare.bert, prepare.mrpc),
        mistakes=(
            uncleared(blamed="accelerator.backward(loss)"),
            unstepped(blamed="accelerator.backward(loss)"),
            Mistake("AdamW(params=model.parameters()", "AdamW(params=model.classifier.parameters()", "GL302", "AdamW("),
        ),
        torchvision=False,
    ),
    "accelerate accumulation": Script(
        "accelerate/examples/by_feature/gradient_accumulation.py",
        "--cpu --gradient_accumulation_steps 2",
        (prepare.bert, prepare.mrpc),
        mistakes=(
            uncleared(blamed="accelerator.backward(loss)"),
            unstepped(blamed="accelerator.backward(loss)"),
            Mistake(
                "    model = model.to(accelerator.device)",
                "    model = model.to(accelerator.device)\n    model.bert.embeddings.requires_grad_(False)",
                "GL301",
                "AdamW(",
            ),
        ),
        torchvision=False,
    ),
    "cyclegan": Script(
        "PyTorch-GAN/implementations/cyclegan/cyclegan.py",
        "--dataset_name generated --img_height 64 --img_width 64 --n_residual_blocks 2 --n_cpu 0",
        (prepare.pictures(*(f"../../data/generated/{part}/{side}" for part in ("train", "test") for side in "AB")),),
        mistakes=(
            uncleared("optimizer_G.zero_grad()", "loss_G.backward()"),
            unstepped("optimizer_D_A.step()", "loss_D_A.backward()"),
            Mistake(
                "itertools.chain(G_AB.parameters(), G_BA.parameters())",
                "G_AB.parameters()",
                "GL302",
                "optimizer_G = ",
            ),
            Mistake(
                "criterion_cycle(recov_A, real_A)", "criterion_cycle(recov_A.detach(), real_A)", "GL409", "loss_cycle_A"
            ),
        ),
    ),
    "wgan-gp": Script(
        "PyTorch-GAN/implementations/wgan_gp/wgan_gp.py",
        "--n_epochs 1",
        mistakes=(
            unstepped("optimizer_D.step()", "d_loss.backward()"),
            uncleared("optimizer_D.zero_grad()", "d_loss.backward()"),
            Mistake("create_graph=True,", "create_graph=False,", "GL411", "autograd.grad("),
        ),
    ),
    "gan": Script(
        "PyTorch-GAN/implementations/gan/gan.py",
        "--n_epochs 1",
        mistakes=(
            uncleared("optimizer_G.zero_grad()", "g_loss.backward()"),
            unstepped("optimizer_D.step()", "d_loss.backward()"),
            Mistake(
                "adversarial_loss(discriminator(gen_imgs), valid)",
                "adversarial_loss(discriminator(gen_imgs.detach()), valid)",
                "GL401",
                "gen_imgs.detach()",
            ),
        ),
    ),
    "aae": Script(
        "PyTorch-GAN/implementations/aae/aae.py",
        "--n_epochs 1",
        mistakes=(
            uncleared("optimizer_G.zero_grad()", "g_loss.backward()"),
            Mistake("decoder(encoded_imgs)", "decoder(encoded_imgs).detach()", "GL401", ".detach()"),
            Mistake(
                "chain(encoder.parameters(), decoder.parameters())", "chain(decoder.parameters())", "GL302", "Adam("
            ),
        ),
    ),
    "simsiam": Script(
        "simsiam/main_simsiam.py",
        "data -a resnet18 -b 4 -j 0 --dist-backend gloo --dist-url tcp://127.0.0.1:29533 --world-size 1 --rank 0",
        (
            replaced(
                "main_simsiam.py",
                ("args.distributed = ", "args.distributed = True or "),
                ("model.cuda()", "model"),
                ("torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)", "model"),
            ),
        ),
        mistakes=(
            uncleared(),
            Mistake(
                "self.predictor(z1) # NxC\n        p2 = self.predictor(z2)",
                "self.predictor(z1.detach())\n        p2 = self.predictor(z2.detach())",
                "GL401",
                "z1.detach()",
                "simsiam/builder.py",
            ),
            Mistake(
                "optim_params = model.parameters()",
                "optim_params = model.module.predictor.parameters()",
                "GL302",
                "optim.SGD(",
            ),
        ),
        allowed=("GL301",),  # a bias that is frozen by hand is given to SGD
    ),
    "diffusion": Script(
        "minDiffusion/superminddpm.py",
        prepare=(
            replaced(
                "superminddpm.py",
                ("num_workers=20", "num_workers=2"),
                ("batch_size=128", "batch_size=4"),
                ("cuda:0", "cpu"),
            ),
        ),
        mistakes=(
            uncleared("optim.zero_grad()"),
            unstepped("optim.step()"),
            Mistake("Adam(ddpm.parameters()", "Adam(ddpm.eps_model.conv[0].parameters()", "GL302", "Adam("),
        ),
    ),
    "text cnn": Script(
        "cnn-text-classification-pytorch/main.py",
        prepare=(prepare.reviews,),
        mistakes=(
            uncleared(file="train.py"),
            unstepped(file="train.py"),
            Mistake("nn.ModuleList(", "list(", "GL104", "self.convs", "model.py"),
        ),
    ),
    "dqn": Script(
        "cleanrl/cleanrl/dqn.py",
        "--learning-starts 50 --train-frequency 2 --batch-size 16 --buffer-size 1000",
        mistakes=(
            Mistake(
                "target_network = QNetwork(envs).to(device)", "target_network = q_network", "GL109", "target_network"
            ),
            Mistake(  # the prediction is cut; that the target has no gradient is right
                "return self.network(x)",
                "return self.network[2:](self.network[0](x).detach())",
                "GL401",
                "detach()",
            ),
            uncleared(),
        ),
    ),
}
