"""Training from pretrained weights, with and without a frozen backbone."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import bam
from bam.cli.training import train as train_verb
from bam.data import load
from bam.export import save_pretrained
from bam.flags import parse_flags
from bam.models import build
from bam.recipes import ClassificationRecipe, Recipe, RunOptions
from bam.records import Record
from bam.tasks.classification.network import build_model
from bam.tasks.pixels import pixel_normalization
from bam.training import compare, run, trained_model, training_images
from bam.training.optimization import optimizer
from bam.training.session import Session
from tests.conftest import restless

DATA = {"num_train": 64, "num_test": 20, "canvas": 16}


@pytest.fixture
def weights(tmp_path):
    """A file of weights for 7 classes, as of a network trained elsewhere."""
    torch.manual_seed(9)
    save_file(restless(build("cifar/resnet8", 7)).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def recipe(weights):
    return ClassificationRecipe(
        data_options=DATA,
        batch_size=16,
        epochs=1,
        precision="fp32",
        attention="none(identity=true)",
        pretrained=str(weights),
    )


def backbone(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.") and ".attention." not in name}


def test_networks_start_from_the_pretrained_weights(recipe, weights):
    plain, attended = (build_model(recipe.replace(attention=name), 10, (16, 16)).eval() for name in ("none", "bam"))
    stored = load_file(weights)
    for model in (plain, attended):
        own = model.state_dict()
        assert all(torch.equal(own[name], value) for name, value in backbone(stored).items())
    assert plain.fc.out_features == 10 and torch.equal(plain.fc.weight, attended.fc.weight)  # paired, and fresh
    other = build_model(recipe.replace(seed=1), 10, (16, 16))
    assert not torch.equal(other.fc.weight, plain.fc.weight)
    image = torch.randn(2, 3, 16, 16)
    assert bam.attended(attended) and torch.equal(plain(image), attended(image))
    same_classes = build_model(recipe, 7, (16, 16))
    assert torch.equal(same_classes.fc.weight, stored["fc.weight"])


@pytest.mark.parametrize("attention", ["none", "bam"])
def test_a_frozen_backbone_stays_as_it_was(recipe, weights, tmp_path, attention, monkeypatch):
    frozen = recipe.replace(freeze_backbone=True, attention=attention, epochs=2)
    model = build_model(frozen, 10, (16, 16))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in model.state_dict() if name not in backbone(model.state_dict())} & set(
        dict(model.named_parameters())
    )
    assert sum(len(group["params"]) for group in optimizer(model, frozen).param_groups) == len(trained)
    record = run(frozen, tmp_path / "whole")
    result, stored = load_file(tmp_path / "whole" / "model.safetensors"), load_file(weights)
    assert all(torch.equal(result[name], value) for name, value in backbone(stored).items())  # statistics, too
    moved = [name for name in trained if not torch.equal(result[name], model.state_dict()[name])]
    assert len(moved) == len(trained)

    weights.rename(weights.with_name("moved.safetensors"))
    again, _ = trained_model(tmp_path / "whole")  # needs the weights of the run alone
    assert all(torch.equal(value, result[name]) for name, value in again.state_dict().items())
    assert record.recipe["pretrained"] == str(weights) and all(p.requires_grad for p in again.parameters())
    with pytest.raises(FileNotFoundError, match="weights.safetensors"):
        run(frozen, tmp_path / "other")


def test_a_frozen_run_resumes_bit_equal(recipe, tmp_path, monkeypatch):
    frozen = recipe.replace(freeze_backbone=True, attention="bam", epochs=2)
    run(frozen, tmp_path / "whole")

    def save(self, original=Session.save):
        original(self)
        if self.progress.step == 6:
            raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Session, "save", save)
        run(frozen, tmp_path / "parts", RunOptions(save_minutes=0))
    run(frozen, tmp_path / "parts", resume=True)
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()


def test_a_comparison_of_frozen_networks(recipe, tmp_path):
    compare(recipe.replace(freeze_backbone=True), ["none", "bam"], 1, tmp_path / "comparison")
    rates = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["latency_ms"]
    assert set(rates) == {"none", "bam"} and min(rates.values()) > 0


def test_freezing_needs_a_classifier_to_train(recipe, tmp_path):
    save_file(without_classifier().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="no classifier for 11 classes"):
        build_model(
            recipe.replace(
                model="tests.training.test_finetuning:without_classifier",
                pretrained=str(tmp_path / "net.safetensors"),
                freeze_backbone=True,
            ),
            11,
            (16, 16),
        )


def without_classifier():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 11, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def test_flavours_of_momentum(recipe):
    model = build("cifar/resnet8", 10)
    for changes, nesterov in (({}, True), ({"nesterov": False}, False), ({"momentum": 0.0}, False)):
        assert optimizer(model, recipe.replace(**changes)).defaults["nesterov"] == nesterov


def test_flags_of_fine_tuning():
    words = ["--recipe", "digits/small", "--pretrained", "DEFAULT", "--freeze-backbone", "--no-nesterov"]
    recipe = parse_flags(train_verb, words)["recipe"]
    assert (recipe.pretrained, recipe.freeze_backbone, recipe.nesterov) == ("DEFAULT", True, False)
    assert parse_flags(train_verb, [*words[:2], "--pretrained", "12"])["recipe"].pretrained == "12"
    assert parse_flags(train_verb, words[:2])["recipe"].pretrained is None
    with pytest.raises(ValueError, match="pretrained must be of type str, got 12"):
        ClassificationRecipe(pretrained=12)


def test_records_of_the_first_versions_are_read(recipe, tmp_path):
    run(recipe, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "record.json").read_text())
    assert content["classes"] == list("0123456789") and set(content["normalization"]) == {"mean", "std"}
    for name in ("classes", "normalization"):
        del content[name]
    for name in ("pretrained", "freeze_backbone", "nesterov"):
        del content["recipe"][name]
    (tmp_path / "run" / "record.json").write_text(json.dumps(content))
    record = Record.read(tmp_path / "run")
    assert record.classes == [] and record.normalization == {} and Recipe.from_dict(record.recipe).nesterov
    assert trained_model(tmp_path / "run")[1] == record


@pytest.mark.parametrize(
    ("model", "pretrained", "mean"),
    [
        ("resnet18", "DEFAULT", [0.485, 0.456, 0.406]),
        ("timm/resnet18", "default", [0.485, 0.456, 0.406]),
        ("timm/mixnet_s", "ft_in1k", [0.485, 0.456, 0.406]),
        ("timm/inception_v3", "tf_in1k", [0.5, 0.5, 0.5]),
    ],
)
def test_images_are_normalised_as_for_the_pretrained_weights(model, pretrained, mean):
    recipe = ClassificationRecipe(model=model, pretrained=pretrained)
    train, _ = load("digits", **DATA)
    torch.testing.assert_close(pixel_normalization(recipe, train)[0], 255 * torch.tensor(mean))
    own = recipe.replace(data_options={"mean": [0.1, 0.2, 0.3]})  # the recipe's word counts more; digits take none
    assert torch.equal(pixel_normalization(own, train)[0], train.normalization()[0])
    assert torch.equal(pixel_normalization(recipe.replace(pretrained=None), train)[0], train.normalization()[0])


def test_a_run_hands_its_normalisation_on(recipe, weights, tmp_path):
    first = run(recipe.replace(pretrained=None), tmp_path / "first")
    record = tmp_path / "first" / "record.json"
    content = json.loads(record.read_text())
    content["normalization"] = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.25, 0.125]}
    record.write_text(json.dumps(content))
    second = run(recipe.replace(pretrained=str(tmp_path / "first")), tmp_path / "second")
    assert second.normalization == content["normalization"] != first.normalization
    images = training_images(second, count=4)
    assert (images.mean() - training_images(first, count=4).mean()).abs() > 0.1
    export = tmp_path / "saved"
    model, _ = trained_model(tmp_path / "second")
    save_pretrained(model, export, backbone=recipe.model, **second.normalization)
    third = recipe.replace(pretrained=str(export))
    assert pixel_normalization(third, load("digits", **DATA)[0])[0].tolist() == [0.25 * 255, 0.5 * 255, 0.75 * 255]


def test_all_classifiers_learn_on_a_frozen_backbone(tmp_path):
    """RepViT has two, for distillation."""
    torch.manual_seed(3)
    save_file(build("timm/repvit_m0_9", 12).state_dict(), tmp_path / "net.safetensors")
    recipe = ClassificationRecipe(
        model="timm/repvit_m0_9", pretrained=str(tmp_path / "net.safetensors"), freeze_backbone=True
    )
    trained = {name for name, p in build_model(recipe, 10, (64, 64)).named_parameters() if p.requires_grad}
    assert trained == {f"head.{head}.l.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}


def test_random_weights_are_not_frozen():
    with pytest.raises(ValueError, match="freeze_backbone is for pretrained networks: give pretrained too"):
        ClassificationRecipe(freeze_backbone=True)


def test_a_file_beside_its_record_is_normalised_as_told(recipe, tmp_path):
    first = run(recipe.replace(pretrained=None), tmp_path / "first")
    for pretrained in (tmp_path / "first", tmp_path / "first" / "model.safetensors"):
        mean, _ = pixel_normalization(recipe.replace(pretrained=str(pretrained), data="folder:x"), None)
        torch.testing.assert_close(mean, 255 * torch.tensor(first.normalization["mean"]))


def test_google_nets_are_trained_by_their_main_classifier(tmp_path):
    options = {"num_train": 4, "num_test": 2, "canvas": 64}
    record = run(
        ClassificationRecipe(model="googlenet", data_options=options, batch_size=4, epochs=1), tmp_path / "run"
    )
    assert record.complete
    with pytest.raises(ValueError, match="returns a .*OrderedDict, not class logits"):
        run(
            ClassificationRecipe(model="lraspp_mobilenet_v3_large", data_options=options, batch_size=4, epochs=1),
            tmp_path / "other",
        )


def test_a_run_without_named_sites_loads_at_those_it_recorded(tmp_path):
    """Where SE went by itself was another place in earlier versions."""
    tiny = ClassificationRecipe(data_options=DATA, batch_size=16, epochs=1)
    run(tiny.replace(attention="se(sites=bottlenecks)"), tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    record["recipe"]["attention"] = "se"
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert list(bam.attended(trained_model(tmp_path)[0])) == ["layer1", "layer2"]
