import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import bam
from bam import cli
from bam.attention import AttentionSpec
from bam.cli.main import EXAMPLES
from bam.cli.training import _compare_command, compare, compare_commands, train
from bam.flags import parse_flags
from bam.recipes import ClassificationRecipe

TINY = ("--data-options", '{"num_train": 128, "num_test": 50, "canvas": 16}', "--epochs", "1", "--batch-size", "32")


def test_every_verb_explains_itself(capsys):
    assert cli.main([]) == 0 and cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert name in overview and verb.__doc__.splitlines()[0] in overview
        with pytest.raises(SystemExit) as left:
            cli.main([name, "--help"])
        assert left.value.code == 0 and f"usage: bam {name}" in capsys.readouterr().out


def test_help_shows_the_values_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--recipe", "cifar100/resnet50", "--help"])
    message = " ".join(capsys.readouterr().out.split())
    assert (
        "default: cifar/resnet50_v1)" in message
        and "passes over the training images. (type: int, default: 300)" in message
    )


def test_flags_change_the_recipe():
    arguments = parse_flags(
        train,
        ["--recipe", "digits/small", "--attention", "bam", "--lr", "0.05", "--sites", "layer1,layer2", "--flip"]
        + ["--no-deterministic", "--milestones", "0.3,0.6", "--attention-options", '{"reduction": 8}'],
    )
    recipe = arguments["recipe"]
    assert (recipe.name, recipe.lr, recipe.flip, recipe.batch_size) == ("digits/small", 0.05, True, 32)
    assert recipe.attention == AttentionSpec("bam", {"reduction": 8}, ("layer1", "layer2"))
    assert recipe.milestones == [0.3, 0.6] and not recipe.deterministic


def test_cost_of_the_released_layout(capsys):
    words = ["cost", "--model", "cifar/resnet50", "--attention", "bam", "--attention-options", '{"layout": "released"}']
    assert cli.main(words) == 0
    assert "24,063,319 parameters" in capsys.readouterr().out


def test_compare_end_to_end(tmp_path, capsys):
    words = ["compare", "--recipe", "digits/small", *TINY, "--seeds", "2", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "bam - none: " in printed and f"report: {tmp_path}/report.html" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    by_seed = {v["name"]: dict(zip(v["seeds"], v["results"], strict=True)) for v in summary["variants"]}
    (comparison,) = summary["comparisons"]
    assert comparison["differences"] == pytest.approx([by_seed["bam"][s] - by_seed["none"][s] for s in (0, 1)])
    assert all(v["latency_ms"] > 0 and v["images_per_second"] > 0 for v in summary["variants"])
    command = (tmp_path / "report.md").read_text().rsplit("```", 2)[1].strip()
    repeated = parse_flags(compare, shlex.split(command)[2:])
    original = parse_flags(compare, words[1:])
    assert (
        set(repeated["recipe"].differences(original["recipe"])) <= {"precision", "kernel"} and repeated["seeds"] == "2"
    )
    before = (tmp_path / "report.html").read_text()
    assert cli.main(["report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == before


def test_variants_with_options_are_compared(tmp_path, capsys):
    variants = "none,bam(reduction=4),se(sites=every block, identity=true)"
    words = ["compare", "--recipe", "digits/small", *TINY, "--attention", variants, "--seeds", "1"]
    words += ["--out", str(tmp_path)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "bam(reduction=4) - none: " in printed and "se(sites=every block, identity=true) - none: " in printed
    records = {folder.parent.name: json.loads(folder.read_text()) for folder in tmp_path.glob("*/record.json")}
    assert set(records) == {"none-seed0", "bam-reduction=4-seed0", "se-sites=every-block-identity=true-seed0"}
    assert records["bam-reduction=4-seed0"]["recipe"]["attention"] == "bam(reduction=4)"
    assert records["se-sites=every-block-identity=true-seed0"]["sites"] == [f"layer{k}.0.bn2" for k in (1, 2, 3)]
    command = (tmp_path / "report.md").read_text().rsplit("```", 2)[1].strip()
    repeated, original = (parse_flags(compare, w) for w in (shlex.split(command)[2:], words[1:]))
    assert repeated["attention"] == original["attention"]
    assert set(repeated["recipe"].differences(original["recipe"])) <= {"precision", "kernel"}


def test_sites_by_hand_with_latency(capsys):
    words = ["sites", "--model", "examples.your_own_network:small_net", "--sites", "conv[12],before head"]
    assert cli.main(words) == 1 and "before head" not in capsys.readouterr().out  # the head takes no map
    assert cli.main([*words[:-1], "conv[12],-1", "--attention-options", '{"reduction": 4}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["site", "conv1", "conv2", "total"] and lines[-1].endswith(" ms")


def test_networks_of_detection_download_nothing(capsys):
    assert cli.main(["sites", "--model", "fcos_resnet50_fpn", "--no-latency"]) == 0
    assert "backbone.body.layer1" in capsys.readouterr().out


def test_a_run_is_exported_with_what_it_learned(tmp_path, capsys):
    import onnxruntime
    import torch

    from bam.training import trained_model, training_images

    run = tmp_path / "run"
    assert cli.main(["train", "--recipe", "digits/small", *TINY, "--attention", "bam", "--out", str(run)]) == 0
    words = ["export", "--run", str(run), "--out", str(tmp_path / "net.onnx")]
    assert cli.main([*words, "--no-latency"]) == 0
    assert "images as" in capsys.readouterr().out
    model, record = trained_model(run)
    images = training_images(record, count=5)
    (given,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"image": images.contiguous().numpy()})
    torch.testing.assert_close(torch.from_numpy(given), model(images), rtol=1e-4, atol=1e-4)
    assert cli.main([*words, "--attention", "bam"]) == 1 and "a run has its own" in capsys.readouterr().err
    assert cli.main([*words, "--precision", "int8", "--no-latency"]) == 0
    assert "int8, any batch, height, width" in capsys.readouterr().out
    (run / "model.safetensors").write_bytes(b"damaged")
    assert cli.main(words) == 1 and "damaged" in capsys.readouterr().err


def test_coverage_writes_its_page(tmp_path, capsys, monkeypatch):
    from bam.coverage import Candidate

    found = [Candidate("mine", "nets", "tests.coverage.networks:Small")]
    monkeypatch.setattr("bam.coverage.candidates", lambda *_: found)
    words = ["coverage", "--attention", "bam(reduction=4)", "--out", str(tmp_path)]
    assert cli.main([*words, "--jobs", "1"]) == 0
    page = (tmp_path / "coverage.md").read_text()
    assert "1 networks, of which 1 count; 1 of them pass" in page
    assert f"Written by `bam {shlex.join(words)}`" in page
    assert cli.main(["coverage", "--short", "--all"]) == 1 and "leave --models and --all out" in capsys.readouterr().err
    assert cli.main(["coverage", "--attention", "bam(nonsense=3)"]) == 1 and "nonsense" in capsys.readouterr().err
    assert cli.main(["coverage", "--models", "tests.coverage.networks:Smal", "--out", str(tmp_path)]) == 1
    assert "neither torchvision nor timm has tests.coverage.networks:Smal" in capsys.readouterr().err


def test_the_repeat_command_names_the_variants_once():
    recipe = {**ClassificationRecipe().as_dict(), "name": "digits/small", "attention": "bam"}
    summary = {"recipe": recipe, "variants": [{"name": "bam", "seeds": [0]}, {"name": "none", "seeds": [0]}]}
    command = _compare_command(Path("out"), summary)
    assert command.count("--attention ") == 1 and "--attention bam,none" in command


def test_added_seeds_are_repeated_too():
    recipe = ClassificationRecipe(name="digits/small", seed=1).as_dict()
    for seeds, expected in (([1, 2, 3], ["3"]), ([1, 2, 5, 6], ["1:3", "5:7"]), ([4], ["4:5"])):
        lines = compare_commands(Path("out"), {"recipe": recipe, "variants": [{"name": "bam", "seeds": seeds}]})
        flags = [parse_flags(compare, shlex.split(line)[2:]) for line in lines.splitlines()]
        assert [one["seeds"] for one in flags] == expected and {str(one["out"]) for one in flags} == {"repeated"}


def test_a_table_of_the_paper(capsys):
    assert cli.main(["paper", "--table", "dilation"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("###") == 1 and printed.count("24,066,909") == 4 and "20.47" in printed
    assert cli.main(["paper", "--table", "KITTI"]) == 1 and "the tables are: CIFAR-100;" in capsys.readouterr().err


def test_recipes(capsys):
    assert cli.main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "digits/full" in printed and "top-1 error 21.49 %" in printed


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["trian"], 2, "unknown verb 'trian'"),
        (["train", "--recipe", "digits/smal"], 1, "unknown recipe 'digits/smal'; known: digits/small"),
        (["sites", "--model", "resnet51"], 1, "near: resnet50"),
        (["export", "--out", "x.onnx"], 1, "give either --run or --model"),
        (["export", "--model", "resnet18", "--precision", "int8", "--out", "x.onnx"], 1, "give --run"),
        (["export", "--run", "nowhere", "--out", "x.onnx"], 1, "nowhere holds no complete run"),
        (["export", "--model", "resnet18", "--out", "x.onx"], 1, ".pt2, .onnx, .torchscript"),
        (["sites", "--model", "vit_b_16"], 1, "no down-sampling"),
        (["sites", "--model", "nowhere:net"], 1, "No module named 'nowhere'; give <module>:<function>"),
        (["sites", "--model", "os:getcwd"], 1, "returned a str, not a torch.nn.Module"),
        (["sites", "--model", "resnet18", "--sites", "layer7"], 1, "no module 'layer7'; near: 'layer4'"),
        (["sites", "--model", "inception_v3", "--image", "32"], 1, "cannot run on an image of shape (3, 32, 32)"),
        (["train", "--recipe", "digits/small", "--attention", "bim"], 1, "unknown attention 'bim'"),
        (["train", "--recipe", "digits/small", "--attention", "none(reduction=8)"], 1, "has no options"),
        (["train", "--recipe", "digits/small", "--epochs", "0"], 1, "epochs must be at least 1"),
        (["train", "--recipe", "cifar100/resnet20", "--data-root", "/nowhere"], 1, "--data-root or BAM_DATA"),
        (["report", "--out", "/nowhere"], 1, "holds no comparison"),
        (["compare", "--recipe", "digits/small", "--seeds", "0"], 1, "at least 1"),
        (["compare", "--recipe", "digits/small", "--attention", "none,bam(8)"], 1, "'8' is not OPTION=VALUE"),
        (["compare", "--recipe", "digits/small", "--attention", "bam,bam()"], 1, "each variant once"),
        (["compare", "--recipe", "digits/small", "--attention", "bam(sites=l?),bam(sites=l*)"], 1, "different folder"),
        (["compare", "--recipe", "digits/small", "--attention", "se(dilation=2)"], 1, "argument 'dilation'"),
        (["compare", "--recipe", "digits/small", "--attention", "bam(reduction=big)"], 1, "whole number, at least 1"),
        (["cost", "--model", "resnet18", "--sites", "layer1"], 1, "need --attention"),
        (["train", "--recipe", "folder/finetune", "--pretrained", "~nobody/x.pth"], 1, "there is no folder"),
        (["cost", "--model", "resnet18", "--attention", "bam", "--attention-options", '{"ratio": 2}'], 1, "'ratio'"),
    ],
)
def test_errors_are_one_sentence(words, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", _no_network)
    assert cli.main(words) == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def _no_network(*args, **kwargs):
    raise OSError("no network")


def test_wrong_flags_leave_with_two(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["cost", "--modl", "resnet18"])
    assert left.value.code == 2


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("bam")
    called = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert called.stdout == f"bam {bam.__version__}\n"


def test_data_options_are_added_to_those_of_the_recipe():
    def options(*words):
        return parse_flags(train, [*words])["recipe"].data_options

    few = ("--data-options", '{"unreadable": "skip"}')
    assert options("--recipe", "imagenet/mobilenet_192", *few) == {"size": 192, "unreadable": "skip"}
    assert options("--recipe", "imagenet/mobilenet_192", "--data", "folder:mine") == {"size": 192}
    assert options("--recipe", "digits/small", "--data", "folder:mine") == {}
    assert options("--recipe", "digits/small", "--data", "folder:mine", *few) == {"unreadable": "skip"}
    # Said, though it is what the recipe has for its own data.
    same = ("--data-options", '{"augmentation": "flip", "invalid": "drop"}')
    assert options("--recipe", "coco/small", "--data", "voc2007", *same) == {"augmentation": "flip", "invalid": "drop"}
    assert options("--recipe", "coco/small", "--data", "voc2007") == {}


@pytest.mark.filterwarnings("ignore")  # jsonargparse deprecates abbreviated flags
def test_what_decides_about_other_flags_is_written_in_full(capsys):
    words = ["train", "--recipe", "digits/small", "--tas", "detection", "--model", "ssd_resnet8"]
    assert cli.main(words) == 1 and "write --task in full" in capsys.readouterr().err
    assert cli.main(["train", "--rec", "digits/detection"]) == 1
    assert "write --recipe in full" in capsys.readouterr().err


def test_the_repeat_command_of_another_task():
    words = ["--recipe", "digits/small", "--task", "detection", "--model", "ssd_resnet8", "--attention", "none,bam"]
    recipe = parse_flags(compare, words)["recipe"]
    command = _compare_command(Path("out"), {"recipe": recipe.as_dict(), "variants": [{"name": "bam", "seeds": [0]}]})
    assert parse_flags(compare, shlex.split(command)[2:])["recipe"] == recipe


def test_only_fields_of_the_task_are_flags(capsys):
    """`--help` shows no field that means nothing, and --task chooses whose fields there are."""
    own = {"classification": ["--crop-padding", "--freeze-backbone", "--label-smoothing", "--compile-mode"]}
    own["detection"] = ["--model-options", "--backbone BACKBONE"]
    asked = {"classification": ["digits/small"], "detection": ["digits/detection"]}
    for task, words in [*asked.items(), ("detection", ["digits/small", "--task", "detection"])]:
        with pytest.raises(SystemExit):
            cli.main(["train", "--recipe", *words, "--help"])
        shown = capsys.readouterr().out
        assert f"recipe fields of the task {task}" in shown
        for other, flags in own.items():
            assert all((flag in shown) == (other == task) for flag in flags)


def test_fields_under_their_names_of_version_0_1():
    words = ["--recipe", "voc2007/ssd300_vgg16", "--normalization", "frozen", "--sites", "layer1", "--identity"]
    recipe = parse_flags(train, words)["recipe"]
    assert recipe.batchnorm == "frozen" and recipe.attention == AttentionSpec(sites=("layer1",), identity=True)


def test_what_stands_in_brackets_counts_more():
    words = ["--recipe", "folder/finetune", "--attention", "se(sites=every block)", "--sites", "layer1"]
    recipe = parse_flags(train, words)["recipe"]
    assert recipe.attention == AttentionSpec("se", sites=("every block",), identity=True)


def test_a_variant_is_trained_alone(tmp_path, capsys):
    words = ["train", "--recipe", "digits/small", *TINY, "--attention", "bam(reduction=4, sites=layer1)"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    recipe = json.loads((tmp_path / "run" / "record.json").read_text())["recipe"]
    assert recipe["attention"] == "bam(reduction=4, sites=layer1)"
    export = ["export", "--model", "resnet18", "--attention", "se", "--sites", "every block", "--out"]
    assert cli.main([*export, str(tmp_path / "saved")]) == 0
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert len(config["sites"]) == 8 and (config["image_size"], config["resize"]) == ([224, 224], 256)


def test_the_command_to_repeat_is_understood(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(ClassificationRecipe(attention=AttentionSpec(sites=("-1",)), epochs=1).to_yaml())
    words = ["compare", "--recipe", str(mine), *TINY, "--attention", "bam(reduction=4),bam", "--seeds", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    command = (tmp_path / "out" / "report.md").read_text().rsplit("```", 2)[1].strip()
    repeated, original = (parse_flags(compare, w)["recipe"] for w in (shlex.split(command)[2:], words[1:]))
    assert set(repeated.differences(original)) <= {"precision", "kernel"}
    changed = ClassificationRecipe(name="digits/small").replace(sites=["-2", "-1"])
    known = _compare_command(tmp_path, {"recipe": changed.as_dict(),
                                        "variants": [{"name": "bam", "seeds": [0]}]})  # fmt: skip
    assert parse_flags(compare, shlex.split(known)[2:])["recipe"].attention.sites == ("-2", "-1")


def test_sites_of_detectors(capsys):
    assert cli.main(["sites", "--model", "stairnet300_mobilenet", "--no-latency"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("backbone.stairs.") == 6 and "28,290" in printed
    assert cli.main(["sites", "--model", "ssd_resnet8", "--no-latency"]) == 0
    printed = capsys.readouterr().out
    assert "ssd_resnet8 is built on cifar/resnet8" in printed and "layer2" in printed


def test_help_ends_with_examples_that_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, examples in EXAMPLES.items():
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        assert shown.endswith("".join(f"  {line}\n" for line in examples)) and "<class '" not in shown
        for line in examples:
            parse_flags(cli.VERBS[name], shlex.split(line)[2:])


def test_doctor_says_what_is_missing_and_how_to_install_it(capsys, monkeypatch):
    from bam.cli import installation

    assert cli.main(["doctor"]) == 0
    assert "extra train    ok" in capsys.readouterr().out
    monkeypatch.setattr(installation, "_is_installed", lambda requirement: not requirement.startswith("timm"))
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "extra timm     missing: timm>=1.0.31" in shown
    assert shown.splitlines()[-1] == "to install what is missing: pip install 'timm>=1.0.31'"


def test_versions_are_compared_by_their_numbers():
    from bam.cli.installation import _is_installed, _release

    assert _release("2.15.0+cu132") == [2, 15, 0] and _release("1.9") < _release("1.10")
    assert _is_installed("jsonargparse[signatures]>=4.40") and not _is_installed("torch>=99")
    assert not _is_installed("no-such-package>=1")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    pytest.importorskip("shtab", reason="it comes with the extra train")
    assert cli.main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in (*cli.VERBS, "--data-options", "--trust-code"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert cli.main(["--completion", "fish"]) == 1 and "bash or zsh, got 'fish'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"), [(["recipes"], 141), (["--help"], 141), (["train", "--recipe", "digits/small", "--help"], 0)]
)  # argparse ends its help itself
def test_a_reader_that_left_ends_the_command_quietly(words, status):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bam", *words]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.stderr == "" and ended.returncode == status


def test_modules_that_do_not_fit_a_network_have_no_price(monkeypatch, capsys):
    monkeypatch.setattr("bam.attention.table.ATTENTION", {name: bam.ATTENTION[name] for name in ("bam", "se")})
    assert cli.main(["modules", "--model", "squeezenet1_1"]) == 0  # it has no residual blocks
    shown = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert shown["`se`"].count(" - ") == 2 and "+" in shown["`bam`"]
