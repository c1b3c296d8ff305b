"""Random flags, arguments and adapter files: only documented exceptions, and no change after an error."""

import contextlib
import copy
import io

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

import bam
from bam.cli.main import VERBS
from bam.flags import flags_of, parse_flags
from tests.test_properties import ODD, VALUES, extent, harmed, holds

FLAGS = {name: sorted(flags_of(verb)) for name, verb in VERBS.items()}
WORDS = ODD.map(str) | st.sampled_from(
    ["none", "bam", "none,bam", "bam(reduction=0)", "digits/small", "vqa/digits", "folder/finetune", "resnet18", "0:3"]
    + ["nothing.yaml", "1e999", "{}", "[1", '{"canvas": 16}', "cpu", "é", "--", "-", "="]
)


@st.composite
def commands(draw):
    """A verb and words after it, most of which are flags that it has."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    words = []
    for _ in range(draw(st.integers(0, 4))):
        flag = draw(st.sampled_from([*FLAGS[verb], "--nothing"])) if draw(st.booleans()) else None
        value = draw(WORDS)
        words += [value] if flag is None else [f"{flag}={value}"] if draw(st.booleans()) else [flag, value]
    return verb, words


@holds(60, command=commands())
def test_flags_are_arguments_or_refused(command):
    verb, words = command
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            assert isinstance(parse_flags(VERBS[verb], words), dict)
        except (ValueError, OSError) as error:
            assert str(error)
        except SystemExit as end:
            assert end.code == 0 or said.getvalue()


class Small(nn.Sequential):
    """A network of two bottlenecks for images of 16 x 16 pixels."""

    def __init__(self):
        super().__init__()
        for number, width in enumerate((4, 8), start=1):
            convolution = nn.Conv2d(width // 2, width, 3, stride=2, padding=1)
            self.add_module(f"layer{number}", nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
        self.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)))

    def forward(self, images):
        """Logits (N, 3) of images (N, 2, H, W)."""
        return super().forward(images)


IMAGE = torch.zeros(1, 2, 16, 16)
OPTIONS = st.sampled_from(["reduction", "dilation", "normalization", "combine", "kernel", "identity", "k", "", "self"])
ARGUMENTS = {
    "attention": st.sampled_from(["bam", "se", "cbam", "gc", "deformable", "dynamic_filter", nn.Identity]) | ODD,
    "sites": st.none() | st.sampled_from(["layer1", "layer2", "head", "bottlenecks", "stride 4", "input"]) | ODD,
    "image": st.sampled_from([IMAGE, 16, (16, 16), (2, 16, 16), IMAGE[0]]) | VALUES,
    "options": st.dictionaries(OPTIONS, VALUES | st.integers(-1, 9), max_size=2),
}


def is_unchanged(model, before):
    """Whether modules, values, modes and hooks are those of `before`."""
    values, others = model.state_dict(), before.state_dict()
    same = traces(model) == traces(before) and list(values) == list(others)
    return same and all(map(torch.equal, values.values(), others.values()))


def traces(model):
    """What a function could leave behind in each module: its class, mode, hooks and attributes, and what learns."""
    modules = [
        (type(each), each.training, sorted(vars(each)), len(each._forward_hooks), len(each._forward_pre_hooks))
        for each in model.modules()
    ]
    return modules, [parameter.requires_grad for parameter in model.parameters()]


@holds(60, arguments=st.fixed_dictionaries(ARGUMENTS))
def test_attach_attaches_or_leaves_the_network_as_it_was(arguments):
    model = Small()
    before, options = copy.deepcopy(model), arguments.pop("options")
    try:
        bam.attach(model, arguments.pop("attention"), **arguments, **options)
    except (ValueError, TypeError) as error:
        assert str(error) and is_unchanged(model, before)
    else:
        assert bam.attended(model) and is_unchanged(bam.detach(model), before)


@extent(60)
@pytest.mark.parametrize("present", [False, True])
def test_adapters_are_loaded_or_leave_the_network_as_it_was(present, number, tmp_path):
    path, model = tmp_path / "attention.safetensors", Small()
    bam.save_attention(bam.attach(Small(), "bam", reduction=2, image=IMAGE), path)
    if present:
        bam.attach(model, "bam", reduction=2, image=IMAGE)

    def read():
        loaded = copy.deepcopy(model)
        try:
            bam.load_attention(loaded, path, image=IMAGE)
        except (ValueError, OSError):
            assert is_unchanged(loaded, model)
            raise

    harmed(number, path, path.read_bytes(), read, head=900)  # the head says what the tensors are
