"""A min-max training step: ours against the published one in eager PyTorch (15 plain gradient steps), batch 64."""

import numpy as np

from benchmarks.pairs import medians

GAMMAS = (0.36, 1.0, 1.5)
BATCH = 64


def measure(rounds=4):
    import keras

    import tf_robustcomp as rc
    from tf_robustcomp.datasets.images import load_images, resized

    images = resized(load_images("digits").x_train, 32)
    rows = []
    standard = _trained(rc, keras, images, None)
    robust = _trained(rc, keras, images, rc.WassersteinBall(gamma=1.0, steps=5), standard)
    for kind, model in (("standard", standard), ("robust", robust)):
        for gamma in GAMMAS:
            rows += _compare(rc, keras, kind, model, gamma, images[:BATCH], rounds)
    return rows


def _trained(rc, keras, images, adversary, start=None):
    keras.utils.set_random_seed(0)
    model = rc.Compressor(10)
    if start is not None:
        model.set_weights(start.get_weights())
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=20.0), adversary=adversary)
    model.fit(images, batch_size=BATCH, epochs=2 if adversary else 8, verbose=0)
    return model


def _compare(rc, keras, kind, model, gamma, batch, rounds):
    fast, published = rc.WassersteinBall(gamma, **FAST), rc.WassersteinBall(gamma, steps=15)
    steps = []
    for adversary in (fast, published):
        copy = rc.Compressor(10)
        copy.set_weights(model.get_weights())
        copy.compile(keras.optimizers.Adam(1e-9), adversary=adversary)
        steps.append(lambda copy=copy: float(copy.train_on_batch(batch)[0]))
    taken = medians([*steps, _torch_step(gamma, batch)], rounds, warm_up=1)
    reached = [float(np.mean(adversary.attack(model, batch).objective)) for adversary in (fast, published)]

    def row(what, value, goal=""):
        return {"what": f"{what}, gamma {gamma}, {kind} model", "value": value, "unit": "", "goal": goal}

    return [
        row("min-max step, PyTorch / ours", taken[2] / taken[0], ">= 2.5"),
        row("the same, ours with 15 steps", taken[2] / taken[1]),
        row("inner objective, ours / 15 steps", reached[0] / reached[1], ">= 1"),
    ]


FAST = {"steps": 9, "method": "adaptive", "restarts": 0, "precision": "bfloat16"}


def _torch_step(gamma, batch):
    """The published step, written anew: networks of the same size, eager, channels first."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    width, side = 64, 2

    def down(a, b):
        return [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(b)]

    def up(a, b):
        return [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]

    encoder = nn.Sequential(
        *down(1, width), *down(width, 2 * width), *down(2 * width, 4 * width),
        nn.Conv2d(4 * width, 8 * width, 4, 2, 1), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(8 * width * side**2, 10), nn.Tanh(),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(10, 8 * width * side**2), nn.ReLU(), nn.Unflatten(1, (8 * width, side, side)),
        *up(8 * width, 4 * width), *up(4 * width, 2 * width), *up(2 * width, width),
        nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-9)
    centres = torch.linspace(-1, 1, 12)
    x = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))

    def code(images):
        z = encoder(images)
        squares = (z[..., None] - centres) ** 2
        soft = (torch.softmax(-squares, -1) * centres).sum(-1)
        return decoder(soft + (centres[squares.argmin(-1)] - soft).detach())

    def step():
        encoder.eval(), decoder.eval()
        attacked = x.clone()
        for number in range(1, 16):
            attacked.requires_grad_(True)
            objective = ((attacked - code(attacked)) ** 2).sum() - gamma * ((attacked - x) ** 2).sum()
            (gradient,) = torch.autograd.grad(objective, attacked)
            attacked = (attacked + gradient / number**0.5).clamp(0, 1).detach()
        encoder.train(), decoder.train()
        optimizer.zero_grad()
        loss = ((attacked - code(attacked)) ** 2).sum() / len(x)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
