"""Whatever changes a network happens entirely or not at all, also if it is interrupted at any line."""

import copy
import sys

import pytest
import torch
from torch import nn

import bam
from bam.attention import attended
from bam.surgery import adapter, finetuning, fusion, insertion
from tests.attention.gate import Gate
from tests.conftest import restless

FILES = {module.__file__ for module in (adapter, finetuning, fusion, insertion, attended)}
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Interrupt(BaseException):
    """Raised at a line, as Ctrl-C may be."""


def network():
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.AvgPool2d(2)]
    layers += [nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)), nn.AvgPool2d(2), nn.Conv2d(8, 2, 1)]
    return restless(nn.Sequential(*layers)).eval()


def with_attention(*sites):
    return restless(bam.attach(network(), Gate, sites=list(sites), image=16))


class State:
    """What a user sees of a network and its optimizer."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def now(self):
        modules = [(name, type(m), m.training, len(m._forward_pre_hooks)) for name, m in self.model.named_modules()]
        values = {key: value.tolist() for key, value in self.model.state_dict().items()}
        gradients = [p.requires_grad for p in self.model.parameters()]
        groups = [len(group["params"]) for group in self.optimizer.param_groups]
        return modules, values, gradients, groups, self.model(IMAGE).tolist()

    def identities(self):
        return [id(m) for m in self.model.modules()]


CHANGES = {
    "attach": (network, lambda m, o, path: bam.attach(m, Gate, sites=["0", "before 2"], image=16)),
    "insert beside": (lambda: with_attention("0"), lambda m, o, path: bam.attach(m, Gate, sites="2", image=16)),
    "detach": (lambda: with_attention("0", "2"), lambda m, o, path: bam.detach(m)),
    "load_attention": (
        lambda: with_attention("0"),
        lambda m, o, path: bam.load_attention(m, path, attention=Gate, image=16),
    ),
    "freeze_backbone": (lambda: with_attention("0", "2"), lambda m, o, path: bam.freeze_backbone(m)),
    "fuse": (lambda: with_attention("0", "2"), lambda m, o, path: bam.fuse(m)),
    "extend_optimizer": (lambda: with_attention("0", "2"), lambda m, o, path: bam.extend_optimizer(o, m)),
}


def interrupted(change, line=None):
    """Run `change` until `line` lines of the package's surgery have run; return how many ran."""
    count = 0
    torch.manual_seed(1)  # of the new attention

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        change()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", CHANGES)
def test_an_interruption_at_any_line_changes_nothing(name, tmp_path):
    build, change = CHANGES[name]
    path = tmp_path / "attention.safetensors"
    bam.save_attention(with_attention("0", "2"), path)

    def fresh():
        model = build()
        optimizer = torch.optim.SGD(bam.detach(copy.deepcopy(model)).parameters(), lr=0.1)
        return State(model, optimizer), lambda: change(model, optimizer, path)

    state, apply = fresh()
    before = state.now()
    total = interrupted(apply)
    after = state.now()
    assert total > 5 and (after == before) == (name == "fuse")
    state, apply = fresh()
    before, identities = state.now(), state.identities()
    for line in range(1, total + 1):
        try:
            interrupted(apply, line)
        except Interrupt:
            if (state.now(), state.identities()) != (before, identities):
                assert state.now() == after, f"interrupted at line {line} of {total}"
                state, apply = fresh()
                identities = state.identities()
    interrupted(apply)  # and then it works
    assert state.now() == after


class Tokens(nn.Module):
    """Attention for (N, L, C), not for feature maps."""

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, tokens):
        _, _, channels = tokens.shape
        return self.linear(tokens.reshape(-1, channels)).reshape(tokens.shape)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (Tokens, r"attention: Tokens at '0' cannot take a map of shape \(1, 4, 16, 16\) \(too many values to unpack"),
        (lambda c: nn.Conv2d(c, c, 3), r"attention: Conv2d at '0' returns \(1, 4, 14, 14\) for a map of shape"),
        (lambda c: nn.Conv2d(c, c + 1, 1), r"attention: Conv2d at '0' returns \(1, 5, 16, 16\)"),
        (lambda c: nn.LSTM(16, 16), r"attention: LSTM at '0' (cannot take|returns)"),
    ],
)
def test_attention_that_does_not_keep_the_map_is_blamed_itself(attention, message):
    model = network()
    with pytest.raises(ValueError, match=message) as error:
        bam.attach(model, attention, sites=["0", "2"], image=16)
    assert "image=" not in str(error.value) and "must take a feature map" in str(error.value)
    assert len(bam.attended(bam.attach(model, Gate, sites=["0", "2"], image=16))) == 2
