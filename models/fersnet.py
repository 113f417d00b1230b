"""FERSNet: expression recognition and synthesis in one network with selective feature sharing.

Zhao, Liu, Xiao, Lun, Lam, "Deep Multi-task Learning for Facial Expression Recognition and
Synthesis Based on Selective Feature Sharing", ICPR 2020, arXiv 2007.04514.
"""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.resnet import BasicBlock
from utils.tasks import EMOTIONS

CLASSES = len(EMOTIONS)
STAGES = 3
SIZES = (48, 96)  # of the faces

# Without scale and shift of its own: those of the expression follow where there are any.
instance_norm = nn.InstanceNorm2d


def one_hot(labels, classes):
    """(B,) int64 -> (B, classes) bool. PyTorch's own reads the labels back to check them."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


def convolution_layer(in_channels, out_channels):
    """3x3 convolution, batch norm, ReLU: (B, in, H, W) -> (B, out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def residual_block(in_channels, out_channels, norm):
    """A `BasicBlock` whose shortcut, where the channels change, is a bare 1x1 convolution."""
    block = BasicBlock(in_channels, out_channels, 1, norm)
    if in_channels != out_channels:
        block.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return block


class ConvFLU(nn.Module):
    """Convolutional feature leaky unit: a branch takes over some of the other's features.

    kernel: 1 or 3, the size of its four convolutions; none has a bias.
    """

    def __init__(self, channels, kernel=1):
        super().__init__()
        convolution = partial(nn.Conv2d, kernel_size=kernel, padding=kernel // 2, bias=False)
        self.reset = convolution(2 * channels, channels)  # W_r of the paper
        self.update = convolution(2 * channels, channels)  # W_z
        self.received = convolution(channels, channels)  # W
        self.kept = convolution(channels, channels)  # U

    def forward(self, own, other):
        """own, other (B, C, H, W) -> the new own features.

        r = sigmoid(W_r * [own, other]); candidate = tanh(W * (r . other) + U * own);
        z = sigmoid(W_z * [own, other]); result = (1 - z) . own + z . candidate.
        """
        both = torch.cat((own, other), dim=1)
        reset, update = self.reset(both).sigmoid(), self.update(both).sigmoid()
        candidate = torch.tanh(self.received(reset * other) + self.kept(own))
        return (1 - update) * own + update * candidate


class Exchange(nn.Module):
    """A pair of ConvFLUs between the branches: both look at the features as they were before."""

    def __init__(self, channels, kernel):
        super().__init__()
        self.to_recognition = ConvFLU(channels, kernel)
        self.to_synthesis = ConvFLU(channels, kernel)

    def forward(self, recognition, synthesis):
        """(recognition, synthesis) -> the same two, each (B, C, H, W)."""
        received = self.to_recognition(recognition, synthesis)
        return received, self.to_synthesis(synthesis, recognition)


class Transform(nn.Module):
    """Scales and shifts features (B, C, H, W) as a one-hot expression (B, classes) asks for.

    norm(features + weight * noise) * scale(expression) + shift(expression). The noise is one normal
    map per picture, in training only. The weight begins at 0, scale and shift near 0.
    """

    def __init__(self, classes, channels):
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(()))
        self.norm = instance_norm(channels)
        self.lift = nn.Linear(classes, 2 * channels)
        nn.init.xavier_uniform_(self.lift.weight, gain=0.1)
        nn.init.zeros_(self.lift.bias)

    def forward(self, features, expression):
        if self.training:
            noise = torch.randn(len(features), 1, *features.shape[2:], device=features.device)
            features = features + self.noise * noise.to(features)
        scale, shift = self.lift(expression)[:, :, None, None].to(features.dtype).chunk(2, dim=1)
        return self.norm(features) * scale + shift


def doubling(in_channels, out_channels):
    """(B, in, H, W) -> (B, out, 2H, 2W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        instance_norm(out_channels),
        nn.ReLU(inplace=True),
    )


def refining(in_channels, out_channels):
    """Two 3x3 convolutions, each normalised: (B, in, H, W) -> (B, out, H, W)."""
    layers = []
    for inner in (in_channels, out_channels):
        layers += [
            nn.Conv2d(inner, out_channels, 3, padding=1, bias=False),  # a norm follows
            instance_norm(out_channels),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """Draws a face from the features of the synthesis branch and the target expression.

    Five times the features are doubled in size, joined with the skip of that size and refined; the
    last time, at the size of the picture, there is no skip. deep: the bottleneck is half as large
    as the coarsest skip, as with faces of 96x96; else the first doubling is left out.
    """

    def __init__(self, classes, base, deep):
        super().__init__()
        skips = (8 * base, 4 * base, 2 * base, base)  # channels, coarse to fine
        self.transform_bottleneck = Transform(classes, 8 * base)
        self.transforms = nn.ModuleList(Transform(classes, channels) for channels in skips)
        pairs = list(zip((8 * base, *skips), (*skips, base), strict=True))
        self.doublings = nn.ModuleList(doubling(*pair) for pair in pairs)
        if not deep:
            self.doublings[0] = nn.Identity()
        joined = [2 * channels for channels in skips]
        pairs = zip((*joined, base), (*skips, base), strict=True)
        self.refinings = nn.ModuleList(refining(*pair) for pair in pairs)
        self.draw = nn.Conv2d(base, 1, 3, padding=1)

    def forward(self, bottleneck, skips, expression):
        """bottleneck (B, 8 base, h, w), skips fine to coarse -> (B, 1, S, S), unbounded.

        expression: (B, classes), one-hot.
        """
        features = self.transform_bottleneck(bottleneck, expression)
        skips = [
            transform(skip, expression)
            for transform, skip in zip(self.transforms, reversed(skips), strict=True)
        ]
        for number, enlarge in enumerate(self.doublings):
            features = enlarge(features)
            if number < len(skips):
                features = torch.cat((features, skips[number]), dim=1)
            features = self.refinings[number](features)
        return self.draw(features).float()


class FERSNet(nn.Module):
    """Recognizes the expression of a face and synthesizes the face with another one.

    tasks: ("classify",), as `MODELS` demands. sharing: "none" (the recognition branch alone: the
    paper's Baseline), "hard" (both tasks on the same first five blocks: Baseline*) or "selective"
    (a branch each, joined by ConvFLUs). classes: of expressions. size: 48 or 96, of the faces;
    recognition alone takes any. kernel: of the ConvFLUs. base: channels of the stem, 64 in the
    paper.
    """

    SHARINGS = ("none", "hard", "selective")
    HAS_FOLDS = True

    def __init__(
        self, tasks=("classify",), sharing="selective", classes=CLASSES, size=48, kernel=1, base=64
    ):
        super().__init__()
        if sharing not in self.SHARINGS or tuple(tasks) != ("classify",) or size not in SIZES:
            raise ValueError(f"no FERSNet has {sharing=}, {tasks=} and {size=}")
        self.tasks, self.sharing, self.classes, self.base = tuple(tasks), sharing, classes, base
        self.synthesizes = sharing != "none"
        widths = [base * 2**stage for stage in range(STAGES + 1)]
        self.stem = convolution_layer(1, base)
        pairs = list(pairwise(widths))
        self.recognition = nn.ModuleList(residual_block(*pair, nn.BatchNorm2d) for pair in pairs)
        joint = widths[-1]
        if sharing == "selective":
            self.synthesis = nn.ModuleList(residual_block(*pair, instance_norm) for pair in pairs)
            self.exchange = nn.ModuleList(Exchange(width, kernel) for width in widths[1:])
            joint *= 2
        self.joint = residual_block(joint, joint, nn.BatchNorm2d)
        self.deep = size == SIZES[1]
        self.last = convolution_layer(widths[-1], widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)
        if self.synthesizes:
            self.decoder = Decoder(classes, base, self.deep)

    def forward(self, images, target=None):
        """images (B, 1, S, S) in 0..1; target (B,) int64, the expressions to synthesize, or None.

        Returns {"classify": logits (B, classes) float32}; with a target also "synthesized":
        (B, 1, S, S) float32, about in 0..1.
        """
        x = y = F.max_pool2d(self.stem(images), 2)  # (B, base, S / 2, S / 2)
        skips = [y]
        for stage, block in enumerate(self.recognition):
            x = F.max_pool2d(block(x), 2)  # (B, base * 2**(stage + 1), S / 2**(stage + 2), ...)
            if self.sharing == "selective":
                y = F.max_pool2d(self.synthesis[stage](y), 2)
                x, y = self.exchange[stage](x, y)
            else:
                y = x
            skips.append(y)
        joint = self.joint(torch.cat((x, y), dim=1) if self.sharing == "selective" else x)
        if self.deep:
            joint = F.max_pool2d(joint, 2)
        x, y = joint.chunk(2, dim=1) if self.sharing == "selective" else (joint, joint)
        pooled = self.last(x).mean(dim=(2, 3)).to(self.classifier.weight.dtype)
        with torch.autocast(images.device.type, enabled=False):
            outputs = {"classify": self.classifier(pooled)}
        if target is not None:
            expression = one_hot(target, self.classes).to(pooled.dtype)
            outputs["synthesized"] = self.decoder(y, skips, expression)
        return outputs

    def part(self, task):
        """What serves `task`, as (tasks, state dict) that rebuild it: all of it."""
        return self.tasks, self.state_dict()


class Discriminator(nn.Sequential):
    """Conditional PatchGAN; base: channels of its first layer, 64 in the paper.

    faces (B, 1, S, S), expressions (B,) int64 -> scores of patches (B, 1, S / 16, S / 16).
    """

    def __init__(self, classes, base=64):
        widths = (1 + classes, base, 2 * base, 4 * base, 8 * base)
        layers = []
        for number, (inner, outer) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(inner, outer, 4, stride=2, padding=1))
            layers += [instance_norm(outer)] if number else []  # none in the first layer
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        # One more row and column, so that the last convolution keeps the size.
        padding, scores = nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(widths[-1], 1, 4, padding=1)
        super().__init__(*layers, padding, scores)
        self.classes = classes

    def forward(self, faces, expression):
        maps = one_hot(expression, self.classes).to(faces.dtype)[:, :, None, None]
        maps = maps.expand(-1, -1, *faces.shape[2:])
        return super().forward(torch.cat((faces, maps), dim=1)).float()


class SmallClassifier(nn.Module):
    """Classifies people, or expressions: faces (B, 1, S, S) in 0..1 to logits (B, classes).

    It runs in float32, also under autocast.
    """

    def __init__(self, classes, base=32):
        super().__init__()
        widths = (1, base, 2 * base, 4 * base, 8 * base)
        layers = []
        for inner, outer in pairwise(widths):
            layers.append(nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outer), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], classes)

    def embed(self, faces):
        """Features of unit length (B, 8 base), float32."""
        with torch.autocast(faces.device.type, enabled=False):
            return F.normalize(self.trunk(2 * faces - 1).mean(dim=(2, 3)))

    def forward(self, faces):
        with torch.autocast(faces.device.type, enabled=False):
            return self.classifier(16 * self.embed(faces))  # unit vectors give a flat softmax
