import pytest

from bam import recipes
from bam.recipes import RECIPES, ClassificationRecipe, DetectionRecipe, Recipe


@pytest.mark.parametrize("name", list(RECIPES))
def test_yaml_round_trip(name, tmp_path):
    recipe = recipes.load(name)
    assert recipe.name == name
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert recipes.load(str(path)) == recipe and not recipe.differences(recipes.load(str(path)))


@pytest.mark.parametrize("name", list(RECIPES))
def test_docstrings_give_the_command(name):
    assert f"bam compare --recipe {name} " in RECIPES[name].__doc__


def test_partial_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\nattention: bam\nweight_decay: 5e-4\nlr: 1\n")  # YAML takes 5e-4 for a word
    assert recipes.load(str(path)) == ClassificationRecipe(
        name="mine", epochs=3, attention="bam", weight_decay=5e-4, lr=1
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 0", "mine.yaml.*epochs must be at least 1"),
        ("epoch: 3", "mine.yaml.*no field epoch"),
        ("attention:", "attention must be of type str, got None"),
        ("attention: bam\nsites: 2.5", "sites must be names or positions, got 2.5"),
        ("task: [detection]", "task must be one of"),
        ("task: detection\nnormalization: frozen\nbatchnorm: batch", "former name of batchnorm: give only one"),
        ("task: detection\nlabel_smoothing: 0.1", "label_smoothing 0.1 does not apply to the task detection"),
        ("schedule: linear", "schedule must be one of cosine, step"),
        ("lr: 1" + 400 * "0", "lr must be finite"),
        ("epochs: ten", "epochs must be of type int, got 'ten'"),
        ("- 1", "is not a recipe"),
        ("a: [", "not valid YAML"),
        ("batch_size: 100\naccumulation: 3", "not a multiple"),
        ("task: detection\nbackbone: a\npretrained: b", "pretrained already covers the backbone: .* --backbone null"),
    ],
)
def test_bad_yaml_is_reported(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipes.load(str(path))


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown recipe 'digits'; known: digits/small"):
        recipes.load("digits")
    with pytest.raises(FileNotFoundError):
        recipes.load("nowhere.yaml")


def test_numbers_that_yaml_reads_as_words(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("label_smoothing: 1e-1\nweight_decay: 1e-3\n")
    assert recipes.load(str(path)).label_smoothing == 0.1
    path.write_text("task: detection\nlabel_smoothing: 0e-1\n")  # version 0.1 wrote the fields of all tasks
    assert recipes.load(str(path)).task == "detection"


def test_a_recipe_of_another_task_is_made_from_its_values():
    with pytest.raises(ValueError, match="make a new recipe with Recipe.from_dict"):
        ClassificationRecipe().replace(task="detection")
    changed = DetectionRecipe().replace(normalization="frozen")
    assert changed.batchnorm == "frozen" and Recipe.from_dict(changed.as_dict()) == changed
