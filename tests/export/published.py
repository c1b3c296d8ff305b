"""ResNets with BAM as others have published them, restated from descriptions: their names, products and pooling."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


def holder(**modules):
    module = nn.Module()
    for name, child in modules.items():
        module.add_module(name, child)
    return module


def refined(features, channel_logits, spatial_logits):
    full_channel = channel_logits.reshape(*channel_logits.shape, 1, 1).expand_as(features)
    full_spatial = spatial_logits.expand_as(features)
    return (1 + torch.sigmoid(full_channel * full_spatial)) * features


class OfficialBAM(nn.Module):
    """r = 16, d = 4; BatchNorm and ReLU behind every hidden layer and no other; the branches are multiplied."""

    def __init__(self, c):
        super().__init__()
        h = c // 16
        self.channel_att = holder(
            gate_c=named(
                flatten=nn.Flatten(),
                gate_c_fc_0=nn.Linear(c, h),
                gate_c_bn_1=nn.BatchNorm1d(h),
                gate_c_relu_1=nn.ReLU(),
                gate_c_fc_final=nn.Linear(h, c),
            )
        )
        layers = {"gate_s_conv_reduce0": nn.Conv2d(c, h, 1), "gate_s_bn_reduce0": nn.BatchNorm2d(h)}
        layers["gate_s_relu_reduce0"] = nn.ReLU()
        for i in range(2):
            layers[f"gate_s_conv_di_{i}"] = nn.Conv2d(h, h, 3, padding=4, dilation=4)
            layers[f"gate_s_bn_di_{i}"] = nn.BatchNorm2d(h)
            layers[f"gate_s_relu_di_{i}"] = nn.ReLU()
        self.spatial_att = holder(gate_s=named(**layers, gate_s_conv_final=nn.Conv2d(h, 1, 1)))

    def forward(self, features):
        pooled = F.avg_pool2d(features, features.shape[2])
        return refined(features, self.channel_att.gate_c(pooled), self.spatial_att.gate_s(features))


class OfficialBlock(nn.Module):
    def __init__(self, c, width, stride, deep):
        super().__init__()
        out = 4 * width if deep else width
        shapes = [(c, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)] if deep else []
        shapes = shapes or [(c, width, 3, stride), (width, width, 3, 1)]
        self.count = len(shapes)
        for k, (a, b, side, step) in enumerate(shapes, 1):
            self.add_module(f"conv{k}", nn.Conv2d(a, b, side, step, side // 2, bias=False))
            self.add_module(f"bn{k}", nn.BatchNorm2d(b))
        same = c == out and stride == 1
        self.downsample = None if same else nn.Sequential(nn.Conv2d(c, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for k in range(1, self.count + 1):
            y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
            y = y if k == self.count else y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Official(nn.Module):
    """BAM between the stages; for CIFAR a 3 x 3 stem without pooling. The last map is averaged."""

    def __init__(self, depth, classes=10, cifar=False):
        super().__init__()
        deep, c = depth >= 50, 64
        self.cifar = cifar
        self.conv1 = nn.Conv2d(3, 64, 3 if cifar else 7, 1 if cifar else 2, 1 if cifar else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for stage, blocks in enumerate(BLOCKS[depth], 1):
            width, layers = 32 * 2**stage, []
            for i in range(blocks):
                layers.append(OfficialBlock(c, width, 2 if stage > 1 and i == 0 else 1, deep))
                c = 4 * width if deep else width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            if stage < 4:
                self.add_module(f"bam{stage}", OfficialBAM(c))
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = x if self.cifar else F.max_pool2d(x, 3, 2, 1)
        for stage in (1, 2, 3):
            x = getattr(self, f"bam{stage}")(getattr(self, f"layer{stage}")(x))
        return self.fc(self.layer4(x).mean((2, 3)))


def conv_norm(a, b, side, stride=1, dilation=1, bias=False):
    conv = nn.Conv2d(a, b, side, stride, side // 2 * dilation, dilation, bias=bias)
    return named(conv=conv, bn=nn.BatchNorm2d(b))


class OsmrBAM(nn.Module):
    def __init__(self, c):
        super().__init__()
        h = c // 16
        self.ch_att = holder(init_fc=named(fc=nn.Linear(c, h), bn=nn.BatchNorm1d(h)), final_fc=nn.Linear(h, c))
        self.sp_att = holder(
            init_conv=conv_norm(c, h, 1, bias=True),
            dil_convs=holder(conv1=conv_norm(h, h, 3, 1, 4, True), conv2=conv_norm(h, h, 3, 1, 4, True)),
            final_conv=nn.Conv2d(h, 1, 1),
        )

    def forward(self, features):
        channel, spatial = self.ch_att, self.sp_att
        logits = channel.final_fc(channel.init_fc(F.adaptive_avg_pool2d(features, 1).flatten(1)).relu())
        x = spatial.init_conv(features).relu()
        x = spatial.dil_convs.conv2(spatial.dil_convs.conv1(x).relu()).relu()
        return refined(features, logits, spatial.final_conv(x))


class OsmrUnit(nn.Module):
    """A residual unit, and before one that down-samples a BAM, which the shortcut takes, too."""

    def __init__(self, c, width, stride, deep):
        super().__init__()
        out = 4 * width if deep else width
        if stride == 2:
            self.bam = OsmrBAM(c)
        first, *rest = [(c, width, 1), (width, width, 3, stride), (width, out, 1)] if deep else [(c, width, 3, stride)]
        rest = rest or [(width, width, 3)]
        body = holder(**{f"conv{k}": conv_norm(*shape) for k, shape in enumerate([first, *rest], 1)})
        self.res_unit = holder(body=body)
        if stride == 2 or c != out:
            self.res_unit.identity_conv = conv_norm(c, out, 1, stride)

    def forward(self, x):
        x = self.bam(x) if hasattr(self, "bam") else x
        y = x
        for k, layer in enumerate(layers := list(self.res_unit.body.children()), 1):
            y = layer(y) if k == len(layers) else layer(y).relu()
        return (y + (self.res_unit.identity_conv(x) if hasattr(self.res_unit, "identity_conv") else x)).relu()


class Osmr(nn.Module):
    """pytorchcv's: the same function under other names."""

    def __init__(self, depth, classes=10):
        super().__init__()
        deep, c = depth >= 50, 64
        self.features = holder(init_block=holder(conv=conv_norm(3, 64, 7, 2)))
        for stage, blocks in enumerate(BLOCKS[depth], 1):
            width, units = 32 * 2**stage, {}
            for i in range(1, blocks + 1):
                units[f"unit{i}"] = OsmrUnit(c, width, 2 if stage > 1 and i == 1 else 1, deep)
                c = 4 * width if deep else width
            self.features.add_module(f"stage{stage}", named(**units))
        self.output = nn.Linear(c, classes)

    def forward(self, x):
        x = F.max_pool2d(self.features.init_block.conv(x).relu(), 3, 2, 1)
        for stage in (1, 2, 3, 4):
            x = getattr(self.features, f"stage{stage}")(x)
        return self.output(x.mean((2, 3)))
