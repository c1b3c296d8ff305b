"""The loop itself: nothing in an epoch makes the host wait for the device."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils._python_dispatch import TorchDispatchMode

from bam.attention import AttentionSpec
from bam.data import load
from bam.data.augmentation import Augmentation
from bam.recipes import ClassificationRecipe
from bam.tasks.classification import task as classification
from bam.tasks.classification.network import build_model
from bam.training.display import Display, track
from bam.training.loop import Progress, Trainer
from bam.training.optimization import optimizer
from bam.training.run import settings

RECIPE = ClassificationRecipe(
    data_options={"num_train": 96, "num_test": 64, "canvas": 16},
    attention=AttentionSpec("bam", identity=True),
    batch_size=32,
    crop_padding=2,
    flip=True,
    precision="fp32",
    label_smoothing=0.1,
    decay_weights_only=True,
)
#: Operations whose result, or its size, the host has to know before it can go on.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "repeat_interleave"}


class NoWaiting(TorchDispatchMode):
    """Fails where a GPU would be waited for; counts operations, so that one can see that it looked."""

    seen, active = 0, 0

    def __enter__(self):
        NoWaiting.active += 1
        return super().__enter__()

    def __exit__(self, *error):
        NoWaiting.active -= 1
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen += 1
        name = function.overloadpacket.__name__
        masked = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        assert name not in WAITING and not masked, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


def parts(recipe):
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=recipe.accumulation)
    train, test = load(recipe.data, **recipe.data_options)
    model = build_model(recipe, len(train.classes), train.image_size).to(accelerator.device)
    model, stepper = accelerator.prepare(model, optimizer(model, recipe))
    batch = recipe.batch_size // recipe.accumulation
    batches, tested = (
        data.batches(batch, train.normalization(), accelerator.device, augmentation=Augmentation(padding, flip))
        for data, padding, flip in ((train, recipe.crop_padding, recipe.flip), (test, 0, False))
    )
    return accelerator, model, stepper, batches, tested


@pytest.fixture(autouse=True)
def _no_copies_to_the_host(monkeypatch):
    """On a CPU these are no operations that a mode sees: while one is active, they fail."""
    for name in ("tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def refused(tensor, *args, _original=original, _name=name, **kwargs):
            assert not NoWaiting.active, f"{_name} waits for the device"
            return _original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, refused)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_no_step_waits_for_the_device(accumulation):
    recipe = RECIPE.replace(accumulation=accumulation)
    accelerator, model, stepper, batches, _ = parts(recipe)
    progress = Progress(accelerator.device)
    display = Display("", 1, 0, visible=False)
    trainer = Trainer(classification.Classification(recipe), model, stepper, accelerator)
    epoch = trainer.epoch(batches, progress, display)
    next(epoch)  # the epoch's order is drawn on the host and sent to the device; optimiser states are made
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting() as mode:
            for _ in epoch:
                pass
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
    assert progress.step == 3 and mode.seen > 500
    assert progress.finish_epoch(accelerator)["train_loss"] > 0


def test_evaluation_waits_once(monkeypatch):
    _, model, _, _, tested = parts(RECIPE)
    evaluate = classification.Classification(RECIPE).evaluate
    _, test = load(RECIPE.data, **RECIPE.data_options)
    expected = evaluate(model, tested, test)
    last = {}

    def reduce(total, how):
        last.update(total=total, seen=mode.seen)
        mode.__exit__(None, None, None)
        return total

    monkeypatch.setattr(classification, "reduce", reduce)
    mode = NoWaiting().__enter__()
    assert evaluate(model, tested, test) == expected
    assert last["seen"] > 50 and last["total"][3] == len(tested.images)
    assert [images for images, _ in expected.output] == torch.bincount(test.targets, minlength=10).tolist()
    errors = sum(errors for _, errors in expected.output)
    assert errors / len(test) == pytest.approx(expected.figures["test_error"])


def test_the_guard_sees_waiting():
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        torch.ones(3).sum().item()
    with NoWaiting(), pytest.raises(AssertionError, match="tolist waits"):
        torch.ones(3).tolist()
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.arange(3)[torch.tensor([True, False, True])]


def switches():
    """What a run changes in its process."""
    return (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        dict(os.environ),
        *(dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)),
    )


@pytest.mark.parametrize("used_before", [False, True])
def test_switches_of_a_run_are_put_back(used_before):
    if used_before:
        Accelerator(cpu=True)
    before = switches()
    with settings(RECIPE.replace(deterministic=False), "cpu"):
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] and PartialState().device.type == "cpu"
    assert switches() == before
    with pytest.raises(RuntimeError), settings(RECIPE, "cpu"):
        assert switches() != before
        raise RuntimeError
    assert switches() == before


def test_tf32_is_for_gpus():
    if torch.cuda.is_available():  # where it is what was asked for
        with settings(RECIPE.replace(precision="tf32"), None):
            assert torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(ValueError, match="NVIDIA"), settings(RECIPE.replace(precision="tf32"), "cpu"):
        pass


def test_graphs_and_accumulation_exclude_each_other():
    options = {"compile": True, "compile_mode": "reduce-overhead", "accumulation": 2}
    with pytest.raises(ValueError, match="accumulation 1"):
        RECIPE.replace(**options)
    with pytest.raises(ValueError, match="set compile too"):
        RECIPE.replace(compile_mode="reduce-overhead")
    assert dataclasses.replace(RECIPE, **options | {"accumulation": 1}).compile_mode == "reduce-overhead"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="faults are counted, and memory kept, on Linux alone")
def test_kept_memory_does_not_fault_again():
    probe = (
        "import resource, torch; from bam.training import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    [torch.ones(4_000_000) for _ in range(20)]; [torch.ones(20_000_000) for _ in range(3)]\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); print(faults()); keep_freed_memory(); faults(); print(faults())"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    default, kept = map(int, run.stdout.split())
    assert kept < default / 10


def test_no_bar_is_drawn_where_colours_are_forced_without_a_terminal(monkeypatch, capsys):
    """Jupyter sets FORCE_COLOR, which makes rich see a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track(range(3), 3, "counting")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
