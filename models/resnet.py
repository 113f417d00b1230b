"""ResNet-18 trunk for small grey faces.

He et al., "Deep Residual Learning for Image Recognition", 2016. The stem is a 3x3 convolution with
stride 1, without max pooling by default, so a 44x44 face keeps a 6x6 map at the end. Parameter
names (conv1, bn1, layer1..4, shortcut.0/1) are those of the common CIFAR-style ResNet.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride).

    norm: makes the normalisation of so many channels.
    """

    def __init__(self, in_channels, out_channels, stride, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                norm(out_channels),
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


def stage(in_channels, out_channels, stride):
    """Two blocks, of which the first changes channels and size."""
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)
    )


class ResNet18(nn.Module):
    """Faces (B, 1, H, W), normalised, to features (B, 8 * base), float32 or finer.

    base: channels of the first stage; 64 is ResNet-18. pooled: whether a 2x2 max pooling follows
    the stem, which leaves about a quarter of the multiplications. corner_pooling: average only the
    top left 4x4 of the last map, as the classifier of the original project does; for its weights.
    """

    def __init__(self, base=64, pooled=False, corner_pooling=False):
        super().__init__()
        self.pooled, self.corner_pooling = pooled, corner_pooling
        self.width = 8 * base
        self.conv1 = nn.Conv2d(1, base, 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.layer1 = stage(base, base, 1)
        self.layer2 = stage(base, 2 * base, 2)
        self.layer3 = stage(2 * base, 4 * base, 2)
        self.layer4 = stage(4 * base, 8 * base, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, base, H, W)
        if self.pooled:
            x = F.max_pool2d(x, 2)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)  # at last (B, 8 * base, H/8, W/8), half of that where pooled
        if self.corner_pooling:
            x = x[:, :, :4, :4]
        return x.mean(dim=(2, 3)).to(torch.promote_types(x.dtype, torch.float32))


def fold_batch_norms(network):
    """Fold every batch norm into the convolution registered just before it, in place.

    network: in evaluation mode, in which a batch norm only scales and shifts channels.
    """
    norms = nn.BatchNorm2d | nn.SyncBatchNorm
    for parent in list(network.modules()):
        for (first, convolution), (second, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, norms):
                setattr(parent, first, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, second, nn.Identity())
