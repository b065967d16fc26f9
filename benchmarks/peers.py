"""The originals' networks and steps in eager PyTorch, written anew from their description: the peers to be timed."""

import numpy as np
import torch
from torch import nn

CENTRES = torch.linspace(-1, 1, 12)


class Compressor(nn.Module):
    """Encoder, soft-to-hard quantiser of 12 levels, decoder (arXiv 2110.07007): (n, 1, 32, 32) -> same."""

    def __init__(self, latents=10, width=64):
        super().__init__()

        def down(a, b):
            return [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(b)]

        def up(a, b):
            return [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]

        self.encoder = nn.Sequential(
            *down(1, width), *down(width, 2 * width), *down(2 * width, 4 * width),
            nn.Conv2d(4 * width, 8 * width, 4, 2, 1), nn.Sigmoid(),
            nn.Flatten(), nn.Linear(32 * width, latents), nn.Tanh(),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latents, 32 * width), nn.ReLU(), nn.Unflatten(1, (8 * width, 2, 2)),
            *up(8 * width, 4 * width), *up(4 * width, 2 * width), *up(2 * width, width),
            nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images):
        """Code and decode."""
        z = self.encoder(images)
        squares = (z[..., None] - CENTRES) ** 2
        soft = (torch.softmax(-squares, -1) * CENTRES).sum(-1)
        return self.decoder(soft + (CENTRES[squares.argmin(-1)] - soft).detach())


class Block(nn.Module):
    """Pre-activation block of a ResNet (arXiv 1603.05027)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first, self.second = (nn.BatchNorm2d(channels, momentum=0.003) for channels in (inputs, outputs))
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else None

    def forward(self, x):
        """Two convolutions beside the shortcut."""
        activated = torch.relu(self.first(x))
        shortcut = self.project(activated) if self.project else x
        return shortcut + self.conv2(torch.relu(self.second(self.conv1(activated))))


def resnet(depth=56):
    """ResNet-(6n+2) for (n, 3, 32, 32)."""
    layers, channels = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for width in (16, 32, 64):
        for number in range((depth - 2) // 6):
            layers.append(Block(channels, width, 2 if width > 16 and not number else 1))
            channels = width
    return nn.Sequential(
        *layers, nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def compressor_step(batch):
    """A plain training step on images (n, h, w, 1), channels last in memory: a function without arguments."""
    torch.manual_seed(0)
    model = Compressor().to(memory_format=torch.channels_last)
    x = _channels_first(batch).to(memory_format=torch.channels_last)
    return _step(torch.optim.Adam(model.parameters(), 1e-4), lambda: ((x - model(x)) ** 2).sum() / len(x))


def resnet_step(batch, labels):
    """A plain training step of ResNet-56, channels last in memory: a function without arguments."""
    torch.manual_seed(0)
    model = resnet().to(memory_format=torch.channels_last)
    x, y = _channels_first(batch).to(memory_format=torch.channels_last), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    return _step(optimizer, lambda: nn.functional.cross_entropy(model(x), y))


def min_max_step(gamma, batch):
    """The published min-max step: 15 plain gradient steps in inference mode, one training step on their end."""
    torch.manual_seed(0)
    model = Compressor()
    optimizer = torch.optim.Adam(model.parameters(), 1e-9)
    x = _channels_first(batch)

    def loss():
        attacked = _attacked(model, x, gamma)
        model.train()
        return ((attacked - model(attacked)) ** 2).sum() / len(x)

    return _step(optimizer, loss)


def attack(gamma, batch, width=64):
    """The published attack alone: a function without arguments that gives the distortion of each image."""
    torch.manual_seed(0)
    model, x = Compressor(width=width), _channels_first(batch)

    def distortions():
        attacked = _attacked(model, x, gamma)
        with torch.no_grad():
            return ((attacked - model(attacked)) ** 2).sum((1, 2, 3)).numpy()

    return distortions


def _attacked(model, x, gamma):
    model.eval()
    attacked = x.clone()
    for number in range(1, 16):
        attacked.requires_grad_(True)
        objective = ((attacked - model(attacked)) ** 2).sum() - gamma * ((attacked - x) ** 2).sum()
        (gradient,) = torch.autograd.grad(objective, attacked)
        attacked = (attacked + gradient / number**0.5).clamp(0, 1).detach()
    return attacked


def turned(images, angles, batch_size=128, width=64):
    """A rotation curve, nearest neighbour and zeros outside: a function without arguments, a mean for each angle."""
    torch.manual_seed(0)
    model, x = Compressor(width=width).eval(), _channels_first(images)

    @torch.no_grad()
    def distortion(batch, angle):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], dtype=torch.float32).expand(len(batch), 2, 3)
        grid = nn.functional.affine_grid(turn, batch.shape, align_corners=False)
        there = nn.functional.grid_sample(batch, grid, mode="nearest", align_corners=False)
        return ((there - model(there)) ** 2).sum((1, 2, 3))

    return lambda: [float(torch.cat([distortion(part, a) for part in x.split(batch_size)]).mean()) for a in angles]


def _step(optimizer, loss):
    """One step of the optimizer on a loss, a function without arguments; gives its value."""

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def _channels_first(batch):
    return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
