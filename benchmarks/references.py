"""Plain versions of how such networks are usually trained, to compare with.

*Original design*: four separate three-channel ResNet-18s in float32 and contiguous layout, batch
16, an orthogonality term on every block, and a data loader whose one worker splits a pixel string
and builds a PIL image per sample. *Ancestor loop*: one three-channel ResNet-18, float32, batch
128, PIL transforms in a data loader. They share nothing with the package but the shape of the
network, whose parameters have the original project's names.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ThreeChannelNet(nn.Module):
    """(B, 3, 44, 44) -> (B, outputs): the classifier averages one 4x4 corner of the last 6x6 map,
    V/A/D all of it.
    """

    def __init__(self, outputs):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.linear = nn.Linear(512, outputs)

    def blocks(self):
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for block in self.blocks():
            x = block(x)
        pooled = F.avg_pool2d(x, 4) if self.linear.out_features > 1 else F.adaptive_avg_pool2d(x, 1)
        return self.linear(pooled.flatten(1))


class PixelStrings(Dataset):
    """Samples kept as text: split, converted and turned into a PIL image each time."""

    def __init__(self, images, labels, ten_crop=False):
        self.texts = [" ".join(map(str, image.ravel())) for image in images]
        self.labels, self.ten_crop = labels, ten_crop

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        pixels = np.array([int(value) for value in self.texts[index].split()], np.uint8)
        colour = np.repeat(pixels.reshape(48, 48)[:, :, None], 3, axis=2)
        return _transform(Image.fromarray(colour), self.ten_crop), int(self.labels[index])


class Pictures(Dataset):
    """Samples kept as arrays, transformed as PIL images."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        colour = np.repeat(self.images[index][:, :, None], 3, axis=2)
        return _transform(Image.fromarray(colour), False), int(self.labels[index])


def _to_tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)


def _transform(picture, ten_crop):
    if ten_crop:
        corners = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2))
        crops = [
            p.crop((x, y, x + 44, y + 44))
            for p in (picture, ImageOps.mirror(picture))
            for x, y in corners
        ]
        return torch.stack([_to_tensor(crop) for crop in crops])
    x, y = random.randint(0, 4), random.randint(0, 4)
    picture = picture.crop((x, y, x + 44, y + 44))
    return _to_tensor(ImageOps.mirror(picture) if random.random() < 0.5 else picture)


def _orthogonality(network):
    """Of eleven kernels: the first of each block by its stride, and the shortcuts as matrices."""
    total = 0.0
    for block in network.blocks():
        kernel = block.conv1.weight
        products = F.conv2d(kernel, kernel, stride=block.conv1.stride, padding=1)
        target = torch.zeros_like(products)
        centre = products.shape[-1] // 2
        target[:, :, centre, centre] = torch.eye(len(kernel))
        total = total + torch.norm(products - target)
        for layer in block.shortcut.modules():
            if isinstance(layer, nn.Conv2d):
                matrix = layer.weight.flatten(1)
                matrix = matrix if len(matrix) < matrix.shape[1] else matrix.T
                total = total + torch.norm(matrix @ matrix.T - torch.eye(len(matrix)))
    return total


def original_training(images, labels, steps):
    """A function that trains the original design for `steps` batches of 16 and returns the images
    seen.
    """
    networks = [ThreeChannelNet(outputs) for outputs in (7, 1, 1, 1)]
    optimizers = [
        torch.optim.SGD(n.parameters(), 0.01, momentum=0.9, weight_decay=5e-4) for n in networks
    ]
    loader = DataLoader(
        PixelStrings(images[: 16 * steps], labels[: 16 * steps]),
        batch_size=16,
        num_workers=1,
        persistent_workers=True,
    )

    def train():
        for network in networks:
            network.train()
        for crops, target in loader:
            for network, optimizer in zip(networks, optimizers, strict=True):
                out = network(crops)
                wide = out.shape[1] == 7
                loss = (
                    F.cross_entropy(out, target) if wide else F.mse_loss(out[:, 0], target.float())
                )
                loss = loss + 0.5 * _orthogonality(network)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_value_(network.parameters(), 0.1)
                optimizer.step()
        return 16 * steps

    return train


def original_ten_crop(images, labels):
    """A function that evaluates the original design by ten-crop and returns the images seen."""
    networks = [ThreeChannelNet(outputs).eval() for outputs in (7, 1, 1, 1)]
    loader = DataLoader(
        PixelStrings(images, labels, ten_crop=True),
        batch_size=16,
        num_workers=1,
        persistent_workers=True,
    )

    def evaluate():
        with torch.no_grad():
            for crops, _ in loader:
                for network in networks:
                    network(crops.flatten(0, 1)).view(len(crops), 10, -1).mean(1)
        return len(images)

    return evaluate


def ancestor_training(images, labels, steps):
    """A function that trains the ancestor's loop for `steps` batches of 128 and returns the images
    seen.
    """
    network = ThreeChannelNet(7)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        Pictures(images[: 128 * steps], labels[: 128 * steps]),
        batch_size=128,
        num_workers=1,
        persistent_workers=True,
    )

    def train():
        network.train()
        for crops, target in loader:
            loss = F.cross_entropy(network(crops), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), 0.1)
            optimizer.step()
        return 128 * steps

    return train
