"""Good practice of fine-tuning: each part does what it says, and a run with all of them resumes bit for bit."""

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bam import cli
from bam.data import Dataset, load
from bam.data.augmentation import Augmentation
from bam.models import build, classifier_names
from bam.recipes import ClassificationRecipe
from bam.reports.wording import probe_notes
from bam.tasks import task_of
from bam.tasks.classification.network import build_model
from bam.tasks.classification.probe import fit_probe, linear_probe
from bam.tasks.classification.task import Classification
from bam.tasks.pixels import normalization_note
from bam.training import Interrupted, run
from bam.training.best import Best
from bam.training.optimization import moving_average, optimizer
from bam.training.states import load_state
from tests.conftest import restless

DATA = {"num_train": 96, "num_test": 20, "canvas": 16}
ALL = {
    "optimizer": "adamw", "lr": 0.001, "ema": 0.9, "new_lr": 10.0, "trivial_augment": True, "random_erasing": 0.5,
    "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "new_classifier": "probe", "frozen_statistics": True,
    "validation": 0.1,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    torch.manual_seed(9)
    save_file(restless(build("cifar/resnet8", 7)).state_dict(), tmp_path / "weights.safetensors")
    weights = str(tmp_path / "weights.safetensors")
    return ClassificationRecipe(
        data_options=DATA, batch_size=16, epochs=2, precision="fp32", pretrained=weights, attention="bam(identity=true)"
    )


def test_a_run_with_everything_resumes_bit_for_bit(recipe, tmp_path, monkeypatch):
    """Also the best epoch, which here is the first: the one before the interruption."""
    recipe, offer = recipe.replace(**ALL), Best.offer

    def first_is_best(self, epoch, evaluation, network):
        evaluation.figures["test_error"] = epoch / 10
        offer(self, epoch, evaluation, network)

    monkeypatch.setattr(Best, "offer", first_is_best)
    expected = run(recipe, tmp_path / "whole").final
    from bam.training.loop import Trainer

    step, taken = Trainer._step, []

    def interrupted(self, stream, number):
        taken.append(number)
        if len(taken) == 9:  # in the second epoch
            os.kill(os.getpid(), 2)
        return step(self, stream, number)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "parts")
    final = run(recipe, tmp_path / "parts", resume=True).final
    assert final["epoch"] == expected["epoch"] == 1 and final["test_error"] == expected["test_error"]
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert (tmp_path / "whole" / "steps.csv").read_text() == (tmp_path / "parts" / "steps.csv").read_text()


def test_the_average_is_what_is_saved_and_evaluated(recipe, tmp_path):
    record = run(recipe.replace(ema=0.5), tmp_path)
    state, saved = load_state(tmp_path), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[key], state["average"][f"module.{key}"]) for key in saved)
    assert not torch.equal(saved["conv1.weight"], state["model"]["conv1.weight"])
    model, (_, test) = build_model(recipe, 10, (16, 16)), load("digits", **DATA)
    model.load_state_dict(saved)
    task = task_of(recipe)
    batches = task.batches(test, 20, task.normalization(model, load("digits", **DATA)[0]), ("cpu", (0, 1)))
    assert task.evaluate(model, batches, test).figures["test_error"] == record.final["test_error"]


def test_the_average_by_hand():
    model = nn.Linear(2, 1)
    average, expected = moving_average(model, 0.8), None
    for number in range(40):
        nn.init.constant_(model.weight, float(number))
        average.update_parameters(model)
        decay = min(0.8, (1 + number) / (10 + number))
        expected = float(number) if number == 0 else decay * expected + (1 - decay) * number
    torch.testing.assert_close(average.module.weight, torch.full((1, 2), expected))


def test_new_parts_learn_faster(recipe):
    model = build_model(recipe, 10, (16, 16))
    new = task_of(recipe).new_parts(model, 10)
    assert new == ["layer1.attention", "layer2.attention", "fc"]
    groups = optimizer(model, recipe.replace(new_lr=10.0, decay_weights_only=True), new).param_groups
    scales = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        scale, decay = scales[id(parameter)]
        assert scale == (10.0 if name.startswith(tuple(new)) else 1.0), name
        assert (decay > 0) == (parameter.ndim > 1)
    assert len(scales) == len(list(model.parameters()))
    adam = optimizer(model, recipe.replace(optimizer="adamw", new_lr=10.0), new)
    assert isinstance(adam, torch.optim.AdamW)


def test_layers_learn_slower_towards_the_image(recipe):
    model = build("timm/test_resnet", 10)
    groups = optimizer(model, recipe.replace(layer_decay=0.5)).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    path = [
        scale[id(model.get_parameter(f"{name}.weight"))]
        for name in ("conv1.0", "layer1.0.conv1", "layer4.0.conv1", "fc")
    ]
    assert path == sorted(path) and path[0] < path[1] < path[2] < path[3] == 1.0


def test_rates_of_the_groups_follow_the_schedule(recipe, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self, *a: (seen.append([group["lr"] for group in self.param_groups]), step(self, *a))[1],
    )
    run(recipe.replace(new_lr=4.0, epochs=1), tmp_path)
    assert len(seen) == 6 and seen[0][0] > seen[-1][0]
    for rates in seen:
        assert sorted(set(rates)) == pytest.approx([min(rates), 4 * min(rates)])


@pytest.mark.parametrize("name", ["cifar/resnet8", "resnet18", "vgg11", "squeezenet1_1", "timm/test_convnext"])
def test_a_new_classifier_starts_near_zero_and_learns(name, tmp_path):
    torch.manual_seed(9)
    save_file(build(name, 7).state_dict(), tmp_path / "weights.safetensors")
    recipe = ClassificationRecipe(
        model=name, pretrained=str(tmp_path / "weights.safetensors"), new_classifier="zero", precision="fp32"
    )
    model = build_model(recipe, 5, (64, 64)).eval()
    head = model.get_submodule(classifier_names(model, 5)[0])
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), abs=0.3 if name.startswith("sq") else 1e-6)
    assert head.weight.grad.abs().max() > 0
    same = build_model(recipe, 7, (64, 64))  # its classifier is in the file
    assert same.get_submodule(classifier_names(same, 7)[0]).weight.abs().max() > 0


def test_statistics_of_the_pretrained_network_stay(recipe, tmp_path):
    run(recipe.replace(frozen_statistics=True), tmp_path / "run")
    before, after = load_file(recipe.pretrained), load_file(tmp_path / "run" / "model.safetensors")
    moved = {key for key in after if "running" in key and not torch.equal(after[key], before.get(key, after[key][:0]))}
    assert moved and all(".attention." in key for key in moved)
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_have_mixed_classes(recipe, options):
    task = task_of(recipe.replace(**options))
    images, targets = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    seen = []

    class Means(nn.Module):
        """Its logits are what the first pixels of three channels say."""

        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    torch.manual_seed(3)
    loss, figures = task.loss(Means(), images, targets)
    (mixed,) = seen
    assert not torch.equal(mixed, images) and figures["error"] <= 8
    partner = images.roll(1, 0)
    inside = ((mixed - torch.minimum(images, partner)) > -1e-5) & ((mixed - torch.maximum(images, partner)) < 1e-5)
    assert inside.all()  # each pixel lies between the two images that were mixed
    torch.manual_seed(3)
    again, _ = task.loss(Means(), images, targets)
    assert torch.equal(loss, again)
    plain, _ = task_of(recipe).loss(Means(), images, targets)
    assert not torch.equal(loss, plain)


def test_stochastic_depth():
    probabilities = [
        m.p
        for m in build("efficientnet_b0", 10, drop_path=0.4).modules()
        if hasattr(m, "p") and "Depth" in type(m).__name__
    ]
    assert probabilities == sorted(probabilities) and probabilities[-1] > 0.3
    assert build("timm/test_convnext", 10, drop_path=0.2).stages[3].blocks[0].drop_path.drop_prob > 0.1
    for name in ("cifar/resnet8", "alexnet"):
        with pytest.raises(ValueError, match=f"drop_path: {name} has no stochastic depth"):
            build(name, 10, drop_path=0.1)


def test_augmentation_depends_on_seed_epoch_and_number_alone():
    train, _ = load("digits", **DATA)
    augmentation = Augmentation(2, True, trivial=True, erasing=0.5)
    batches = train.batches(16, train.normalization(), augmentation=augmentation)
    first = [images for images, _ in batches.train(3, 1)]
    torch.manual_seed(77)
    again = [images for images, _ in batches.train(3, 1, start=4)]
    assert all(torch.equal(a, b) for a, b in zip(first[4:], again, strict=True))
    assert not torch.equal(next(batches.train(3, 2))[0], first[0])
    plain = train.batches(16, train.normalization(), augmentation=Augmentation(2, True))
    changed = [(a != b).flatten(1).any(1) for a, (b, _) in zip(first, plain.train(3, 1), strict=True)]
    assert 0.6 < torch.cat(changed).float().mean() <= 1
    tested, untouched = (next(b.test())[0] for b in (batches, plain))
    assert torch.equal(tested, untouched)


def test_normalisation_of_weights_from_a_file_is_that_of_the_library(tmp_path):
    save_file(build("timm/tf_efficientnet_lite0", 2).state_dict(), tmp_path / "weights.safetensors")
    recipe = ClassificationRecipe(
        model="timm/tf_efficientnet_lite0", pretrained=str(tmp_path / "weights.safetensors"), data="digits"
    )
    mean, std = task_of(recipe).normalization(nn.Identity(), load("digits", **DATA)[0])
    assert mean.tolist() == std.tolist() == [127.5] * 3
    (note,) = normalization_note(recipe)
    assert "0.500, 0.500, 0.500, as for timm/tf_efficientnet_lite0's own" in note and "--data-options" in note
    assert not normalization_note(recipe.replace(pretrained=None))


@pytest.mark.parametrize(
    ("field", "value"),
    [("new_lr", 0.0), ("layer_decay", 1.5), ("ema", 1.0), ("ema", -0.1), ("random_erasing", 1.0), ("mixup", -1.0)],
)
def test_invalid_values(field, value):
    with pytest.raises(ValueError, match=f"recipe: .*{field}"):
        ClassificationRecipe(**{field: value})
    with pytest.raises(ValueError, match="new_classifier is for pretrained networks"):
        ClassificationRecipe(new_classifier="zero")


def test_the_flags_are_explained(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--recipe", "folder/finetune", "--help"])
    text = capsys.readouterr().out
    for flag in ("--optimizer", "--ema", "--new-lr", "--layer-decay", "--trivial-augment", "--mixup", "--drop-path"):
        assert flag in text


def test_the_linear_probe_is_a_regression_on_what_the_classifier_takes(recipe):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    recipe = recipe.replace(data_options={"num_train": 300, "num_test": 100, "canvas": 16})
    train, test = task_of(recipe).load(None)
    network = build_model(recipe.replace(attention="none"), 10, (16, 16)).eval()
    network.fc = nn.Identity()
    mean, std = train.normalization()
    with torch.no_grad():
        x, test_x = (
            network(((data.images.float() - mean) / std).permute(0, 3, 1, 2)).numpy() for data in (train, test)
        )
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    scores = {
        c: cross_val_score(regression.set_params(logisticregression__C=c), x, train.targets, cv=5)
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1, 10)
    }
    best = max(scores.values(), key=lambda values: values.mean())
    strength = next(c for c, values in scores.items() if values.mean() >= best.mean() - best.std() / 5**0.5)
    regression.set_params(logisticregression__C=strength).fit(x, train.targets)
    expected = (regression.predict(test_x) != test.targets.numpy()).mean()
    assert task_of(recipe).probe(train, test) == {"test_error": pytest.approx(expected, abs=0.021)}
    assert task_of(recipe.replace(pretrained=None)).probe(train, test) is None


def test_a_comparison_tells_of_the_probe_and_takes_more_seeds(recipe, tmp_path, capsys):
    recipe = recipe.replace(lr=0.02, data_options={"num_train": 320, "num_test": 200, "canvas": 16})
    recipe_file = tmp_path / "mine.yaml"
    recipe_file.write_text(recipe.to_yaml())
    variants = "none,bam(identity=false),se(identity=false)"
    words = ["compare", "--recipe", str(recipe_file), "--attention", variants, "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--seeds", "3"]) == 0
    first = capsys.readouterr().out
    assert "linear probe of the frozen features: " in first and "will probably show" not in first
    assert first.count(", corrected (Holm) [") == 2 and "seeds would halve the interval" in first
    assert cli.main([*words, "--seeds", "4:6"]) == 0
    second = capsys.readouterr().out
    assert "5 seeds will probably show a difference for bam(identity=false) if it is " in second
    plan = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plan["seeds"] == [0, 1, 2, 4, 5] and 0 < plan["probe"]["test_error"] < 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Corrected for 2 comparisons (Holm)" in page and "Linear probe of the frozen features" in page
    for wrong in ("5:", "a", "8:5", "1:2:3", "10000000000"):
        assert cli.main([*words, "--seeds", wrong]) == 1 and "seeds: " in capsys.readouterr().err


def test_a_new_classifier_starts_as_the_probe(recipe):
    task = task_of(recipe.replace(new_classifier="probe", data_options=DATA | {"num_train": 600}))
    train, _ = task.load(None)
    network = task.network(train)
    batches = task.batches(train, 100, task.normalization(network, train), ("cpu", (0, 1)))
    reached = task.evaluate(network, batches, train).figures["test_error"]
    assert reached == task.probe(train, train)["test_error"] < 0.9
    untrained = task.network(train, to_train=False)
    assert not untrained.fc.weight.equal(network.fc.weight)
    weights = Path(recipe.pretrained).with_name("whole.safetensors")
    save_file(build("cifar/resnet8", 10).state_dict(), weights)  # with a classifier that fits: it is kept
    kept = task_of(task.recipe.replace(pretrained=str(weights))).network(train)
    assert kept.fc.weight.equal(load_file(weights)["fc.weight"])


@pytest.mark.parametrize("chosen", [2, 3])
def test_the_probe_of_few_classes_and_of_a_class_without_images(recipe, chosen):
    targets = torch.arange(1, 1 + chosen).repeat(20)
    grey = 60 * targets[:, None, None, None] + torch.randint(20, (len(targets), 16, 16, 3))
    images = Dataset(grey.to(torch.uint8), targets, ("absent", *map(str, range(chosen))))
    probe = fit_probe(recipe, images)
    assert probe.weight.shape == (chosen + 1, 64) and not probe.weight[0].any()
    assert linear_probe(recipe, images, images) < 0.05
    assert fit_probe(recipe, dataclasses.replace(images, targets=torch.ones_like(targets))) is None


def test_held_out_images_choose_the_epoch(recipe, tmp_path, monkeypatch):
    recipe = recipe.replace(epochs=4, validation=0.25, lr=0.05, data_options=DATA | {"num_train": 200})
    train, _ = task_of(recipe).load(None)
    rest, held_out = task_of(recipe).hold_out(train)
    assert len(rest) + len(held_out) == 200 and held_out.targets.unique().tolist() == list(range(10))
    shares = held_out.targets.bincount() / train.targets.bincount()
    assert (shares - 0.25).abs().max() < 0.04
    scores, weights = iter([0.5, 0.2, 0.2, 0.4]), []
    evaluate = Classification.evaluate

    def scripted(self, network, batches, images):
        evaluation = evaluate(self, network, batches, images)
        if len(images) == len(held_out):
            evaluation.figures["test_error"] = next(scores)
            weights.append({key: value.clone() for key, value in network.state_dict().items()})
        return evaluation

    monkeypatch.setattr(Classification, "evaluate", scripted)
    record = run(recipe, tmp_path / "best")
    assert record.final["epoch"] == 2 and record.final["validation_error"] == 0.2
    assert record.final["test_error"] == record.history[1]["test_error"]
    short = run(recipe.replace(validation=0.0), tmp_path / "other")
    assert "epoch" not in short.final
    saved, last = load_file(tmp_path / "best" / "model.safetensors"), load_state(tmp_path / "best")["model"]
    assert all(torch.equal(saved[key], value) for key, value in weights[1].items())
    assert not torch.equal(saved["fc.weight"], last["fc.weight"])
    with pytest.raises(ValueError, match="holds out no image"):
        task_of(recipe.replace(validation=0.001)).hold_out(train)


def test_a_baseline_below_its_probe_is_reported():
    summary = {
        "measures": [{"key": "test_error", "label": "test error"}],
        "probe": {"test_error": 0.05},
        "variants": [{"name": "none", "mean": 7.0}],
    }
    (note,) = probe_notes(summary)
    assert "The baseline none is worse (7.00 %): training spoils the pretrained features" in note
    summary["variants"][0]["mean"] = 4.0
    assert probe_notes(summary) == ["linear probe of the frozen features: 5.00 % test error"]
