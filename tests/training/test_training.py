import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import bam
from bam import cli, records
from bam.data import load
from bam.files import write_atomically
from bam.flags import parse_flags
from bam.models import MODELS
from bam.recipes import ClassificationRecipe, Recipe, RunOptions
from bam.tasks.classification.network import build_model
from bam.training import Interrupted, compare, run
from bam.training.optimization import learning_rate, load_optimizer, optimizer
from bam.training.states import load_state, save_state

TINY = ClassificationRecipe(
    data_options={"num_train": 320, "num_test": 100, "canvas": 16}, batch_size=32, epochs=2, precision="fp32"
)


def bam_command(folder, *flags, epochs=4):
    return [
        *(sys.executable, "-m", "bam", "train", "--recipe", "digits/small", "--attention", "bam", "--out", str(folder)),
        *("--data-options", json.dumps(TINY.data_options), "--epochs", str(epochs), "--batch-size", "16"),
        *("--save-minutes", "0.002", *flags),
    ]


def wait_for(condition, process, seconds=300):
    """Wait until the condition holds; the process is killed if it takes longer, and must not end by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            process.kill()
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def in_mid_epoch(folder, steps_per_epoch=20):
    """Whether a state has been saved that does not stand between two epochs (and is not of the first one)."""
    steps = [int(path.name.split("-")[1]) for path in folder.glob("state-*.pt")]
    return any(step > steps_per_epoch and step % steps_per_epoch for step in steps)


def test_resume_after_sigkill_is_bit_equal(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.main(bam_command(whole)[3:]) == 0
    process = subprocess.Popen(bam_command(killed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: in_mid_epoch(killed), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "model.safetensors").exists()
    with pytest.raises(ValueError, match="add --resume"):
        run(parse_flags(cli.VERBS["train"], bam_command(killed)[4:])["recipe"], killed)
    assert cli.main(bam_command(killed, "--resume")[3:]) == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "steps.csv").read_text() == (whole / "steps.csv").read_text()
    errors = [[row["test_error"] for row in records.Record.read(folder).history] for folder in (whole, killed)]
    assert errors[0] == errors[1] and len(errors[0]) == 4


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_request_to_stop_saves_and_says_how_to_go_on(tmp_path, number):
    process = subprocess.Popen(
        bam_command(tmp_path / "run", epochs=1000), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: in_mid_epoch(tmp_path / "run"), process)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in message
    assert "the state is saved" in message and message.rstrip().endswith("--resume")


def test_a_run_leaves_everything_needed(tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    record = run(TINY.replace(attention="bam"), tmp_path)
    assert torch.are_deterministic_algorithms_enabled() == before
    names = {path.name.split("-0")[0] for path in tmp_path.iterdir()}
    assert names == {"recipe.yaml", "record.json", "steps.csv", "classes.csv", "model.safetensors", "state"}
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == TINY.replace(attention="bam", kernel="torch")
    assert records.Record.read(tmp_path) == record and record.complete
    assert record.sites == ["layer1", "layer2"] and len(record.history) == 2
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + 2 * 10
    model = build_model(TINY.replace(attention="bam"), 10, (16, 16))
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    train, test = load("digits", **TINY.data_options)
    with torch.no_grad():
        ((image, target),) = test.batches(100, train.normalization()).test()
        logits = model.eval()(image)
    better = (logits > logits[torch.arange(100), target][:, None]).sum(1)  # classes that were taken for likelier
    assert (better > 0).double().mean() == pytest.approx(record.final["test_error"], abs=0.011)
    assert (better > 4).double().mean() == pytest.approx(record.final["test_error_top5"], abs=0.011)
    assert run(TINY.replace(attention="bam"), tmp_path) == record  # complete: nothing to do


def test_training_learns(tmp_path):
    recipe = TINY.replace(epochs=12, data_options=TINY.data_options | {"num_train": 640})
    assert run(recipe, tmp_path).final["train_error"] < 0.5  # chance is 0.9


def test_another_recipe_is_refused(tmp_path):
    run(TINY.replace(epochs=1), tmp_path)
    with pytest.raises(ValueError, match="another recipe.*epochs is 1 there, not 3"):
        run(TINY.replace(epochs=3), tmp_path)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_computes_the_same_steps(tmp_path, monkeypatch, parts):
    """With a network without batch statistics the parts add up to the whole batch, step by step."""

    def linear(classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, classes))

    monkeypatch.setitem(MODELS, "linear", linear)
    weights, losses = [], []
    for accumulation in (1, parts):
        folder = tmp_path / str(accumulation)
        run(TINY.replace(model="linear", epochs=1, lr=0.01, accumulation=accumulation), folder)
        weights.append(load_file(folder / "model.safetensors")["1.weight"])
        rows = (folder / "steps.csv").read_text().splitlines()[1:]
        losses.append(torch.tensor([float(row.split(",")[2]) for row in rows]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    start = build_model(TINY.replace(model="linear"), 10, (16, 16))[1].weight
    assert (weights[0] - start).abs().max() > 0.01  # far enough for a wrong factor to show


def test_variants_of_a_seed_start_alike():
    plain, attended = (build_model(TINY.replace(attention=name, seed=4), 10, (16, 16)) for name in ("none", "bam"))
    state = attended.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    other = build_model(TINY.replace(seed=5), 10, (16, 16))
    assert not torch.equal(other.conv1.weight, plain.conv1.weight)


def test_identity_variant_starts_with_the_output_of_the_baseline():
    plain = build_model(TINY, 10, (16, 16)).eval()
    attended = build_model(TINY.replace(attention="bam", identity=True), 10, (16, 16)).eval()
    image = torch.randn(2, 3, 16, 16)
    assert bam.attended(attended) and torch.equal(plain(image), attended(image))


def test_comparison_skips_what_is_done(tmp_path):
    recipe = TINY.replace(epochs=1)
    compare(recipe, ["none", "bam"], 1, tmp_path)
    first = (tmp_path / "bam-seed0" / "model.safetensors").stat().st_mtime_ns
    compare(recipe, ["none", "bam"], 2, tmp_path)
    assert (tmp_path / "bam-seed0" / "model.safetensors").stat().st_mtime_ns == first
    plan = json.loads((tmp_path / "comparison.json").read_text())
    assert plan["seeds"] == [0, 1] and set(plan["latency_ms"]) == {"none", "bam"}
    with pytest.raises(ValueError, match="each variant once"):
        compare(recipe, ["bam", "bam"], 1, tmp_path)


def test_damaged_states_fall_back(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"step": step, "tensor": torch.full((1000,), step)})
    older, newest = sorted(tmp_path.glob("state-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged; falling back"):
        assert load_state(tmp_path)["step"] == 2
    older.write_bytes(older.read_bytes()[:100])
    with pytest.warns(UserWarning) as caught:
        assert load_state(tmp_path) is None
    assert f"{older.name} is damaged; no state is left: starting at step 0" in str(caught[-1].message)


def test_after_damage_new_states_are_kept(tmp_path):
    run(TINY, tmp_path)
    (tmp_path / "record.json").unlink()
    for path in tmp_path.glob("state-*.pt"):
        path.write_bytes(b"damaged")
    (tmp_path / "steps.csv").write_bytes(b"step,lr,loss\n0,0.1,2.3\n1,0.1,\x00\x00\xff\n\x00")
    with pytest.warns(UserWarning, match="is damaged"):
        record = run(TINY, tmp_path, resume=True)
    assert record.complete and len(list(tmp_path.glob("*.damaged"))) == 2
    assert load_state(tmp_path)["progress"]["step"] == 20
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + 20


def test_states_without_a_recipe_are_refused(tmp_path):
    run(TINY, tmp_path)
    (tmp_path / "recipe.yaml").unlink()
    for resume in (True, False):
        with pytest.raises(ValueError, match="no recipe.yaml"):
            run(TINY.replace(seed=3), tmp_path, resume=resume)


def test_a_comparison_is_checked_before_anything_is_trained_or_written(tmp_path):
    with pytest.raises(ValueError, match="unknown attention 'bma'"):
        compare(TINY, ["none", "bma"], 1, tmp_path / "a")
    with pytest.raises(ValueError, match="reduction must be a whole number, at least 1"):
        compare(TINY.replace(attention_options={"reduction": 0}), ["none", "bam"], 1, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    compare(TINY.replace(epochs=1), ["none", "bam"], 1, tmp_path / "b")
    before = (tmp_path / "b" / "comparison.json").read_text()
    with pytest.raises(ValueError, match="another recipe.*lr is 0.1 there, not 0.2"):
        compare(TINY.replace(epochs=1, lr=0.2), ["none"], 1, tmp_path / "b")
    assert (tmp_path / "b" / "comparison.json").read_text() == before


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_interruption_is_a_keyboard_interrupt():
    assert issubclass(Interrupted, KeyboardInterrupt)


def test_learning_rates():
    cosine = ClassificationRecipe(lr=0.2, epochs=10, warmup_epochs=1)
    rates = [learning_rate(cosine, step, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.002) and rates[99] == pytest.approx(0.2) and max(rates) == pytest.approx(0.2)
    assert rates[550] == pytest.approx(0.1, rel=0.01) and rates[-1] < 1e-5
    steps = ClassificationRecipe(lr=0.1, epochs=10, schedule="step", milestones=[0.5, 0.75])
    assert [learning_rate(steps, s, 10) for s in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_weight_decay_on_weights_only():
    model = build_model(TINY.replace(attention="bam", identity=True), 10, (16, 16))
    groups = optimizer(model, TINY.replace(decay_weights_only=True)).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len(optimizer(model, TINY).param_groups) == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizer_is_one_kernel_but_an_earlier_run_keeps_its_own(name):
    model = torch.nn.Linear(3, 2)
    fused = optimizer(model, TINY.replace(optimizer=name))
    model(torch.randn(4, 3)).sum().backward()
    fused.step()
    assert fused.param_groups[0]["fused"] is True
    saved = fused.state_dict()
    saved["param_groups"][0]["fused"] = None  # as on a CPU before 0.2
    load_optimizer(fused, saved)
    assert fused.param_groups[0]["fused"] is None  # so that its weights stay the same, bit for bit
    fused.step()


def test_parameters_may_get_their_first_gradients_at_any_step():
    always, later = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(always, later)
    stepper, plain = optimizer(model, TINY), torch.optim.SGD(copy.deepcopy(model).parameters())
    plain.param_groups[0] |= {k: v for k, v in stepper.param_groups[0].items() if k not in ("params", "fused")}
    for layers in (model[:1], model, model[:1]):  # the second layer is skipped now and then
        gradients = torch.autograd.grad(layers(torch.ones(2, 3)).square().sum(), list(layers.parameters()))
        for group in (stepper, plain):
            group.zero_grad()
            for parameter, gradient in zip(group.param_groups[0]["params"], gradients, strict=False):
                parameter.grad = gradient.clone()
            group.step()
    torch.testing.assert_close(stepper.param_groups[0]["params"], plain.param_groups[0]["params"])
    state = plain.state_dict()
    state["param_groups"][0]["fused"], state["state"][2] = True, {"momentum_buffer": None}
    load_optimizer(stepper, state)
    stepper.step()


def test_fused_kernels_are_not_used_where_they_fail():
    for tensor in (torch.zeros(2, dtype=torch.complex64), torch.zeros(4, 4)[:, :2]):
        model = torch.nn.Module()
        model.weight = torch.nn.Parameter(tensor)
        assert optimizer(model, TINY).param_groups[0]["fused"] is None
    assert optimizer(torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), TINY).param_groups[0]["fused"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_follow_each_other_in_one_process(tmp_path, precision):
    record = run(TINY.replace(epochs=1, precision=precision), tmp_path)
    assert record.environment["precision"] == precision


def test_a_device_that_is_not_there_is_refused(tmp_path):
    if torch.cuda.is_available():  # then the request is met, and there is nothing to refuse
        pytest.skip("there is a GPU here: the refusal of cuda without one cannot be seen")
    with pytest.raises(ValueError, match="device 'cuda' is not available here"):
        run(TINY, tmp_path, RunOptions(device="cuda"))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="larger than the 320 training images"):
        run(TINY.replace(batch_size=512), tmp_path)


@pytest.mark.slow
def test_two_processes_answer_each_question_once(tmp_path):
    options = ["--data-options", '{"num_train": 64, "num_test": 23, "canvas": 48}', "--epochs", "1", "--device", "cpu"]
    command = ["bam", "train", "--recipe", "vqa/digits", *options, "--batch-size", "16"]
    for processes in (1, 2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        out = ["--out", str(tmp_path / str(processes))]
        subprocess.run([*torchrun, "-m", *command, *out], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (json.loads((tmp_path / name / "answers.json").read_text()) for name in "12")
    assert [answer["question_id"] for answer in one] == [answer["question_id"] for answer in two]
    assert len(two) > 23 * 4


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    """torchrun on two CPU processes: the batches are shared, the result is whole."""
    command = bam_command(tmp_path / "run", "--device", "cpu", epochs=2)[2:]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", *command],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    record = records.Record.read(tmp_path / "run")
    assert record.complete and len((tmp_path / "run" / "steps.csv").read_text().splitlines()) == 1 + 2 * 20
