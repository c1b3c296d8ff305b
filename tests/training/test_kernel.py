"""The kernel of BAM's gates: measured once in long runs, shared by a comparison, kept when a run resumes."""

import shutil

import pytest
import torch
import yaml

from bam.kernels import backend, inductor_gate
from bam.recipes import ClassificationRecipe, Recipe, RunOptions
from bam.records import Record
from bam.surgery import attended
from bam.tasks import task_of
from bam.training import compare, kernel, run
from bam.training.comparison import read_comparison
from bam.training.session import Session

TINY = ClassificationRecipe(
    data_options={"num_train": 64, "num_test": 20, "canvas": 16},
    batch_size=16, epochs=1, precision="fp32", attention="bam",
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_bam_kernel(monkeypatch):
    monkeypatch.delenv("BAM_KERNEL", raising=False)


@pytest.fixture
def timed(monkeypatch):
    """Every run is long, and a pass of a module takes these seconds with each kernel; lists the kernels timed."""
    seconds, asked = {"torch": 0.1, "inductor": 0.05}, []

    def measure(calls, name, precision):
        asked.append(name)
        if isinstance(seconds[name], Exception):
            raise seconds[name]
        return seconds[name] * len(calls), [torch.ones(2)]

    monkeypatch.setattr(kernel, "_STEPS", 1)
    monkeypatch.setattr(kernel, "_SECONDS", 0)
    monkeypatch.setattr(kernel, "_run", measure)
    return seconds, asked


def fastest(*recipes):
    train, _ = task_of(TINY).load(None)
    return kernel.fastest(recipes or [TINY], train, CPU)


def test_the_choice_is_the_fastest_by_a_margin_that_runs_here(timed, capsys):
    seconds, _ = timed
    assert fastest() == ("inductor", {"torch": 200.0, "inductor": 100.0})  # two modules
    assert fastest(TINY, TINY.replace(attention="none"), TINY) == ("inductor", {"torch": 400.0, "inductor": 200.0})
    assert "timing the kernels of BAM's gate: torch, inductor" in capsys.readouterr().out
    seconds["inductor"] = 0.097  # not clearly faster
    assert fastest()[0] == "torch"
    seconds["inductor"] = FileNotFoundError("no compiler")
    assert fastest() == ("torch", {"torch": 200.0})
    assert "kernel inductor is left out: no compiler" in capsys.readouterr().out
    seconds["torch"] = RuntimeError("a fault of the network")
    with pytest.raises(RuntimeError, match="a fault of the network"):
        fastest()


def test_where_nothing_is_to_choose_nothing_is_measured(timed, monkeypatch):
    _, asked = timed
    fixed = TINY.replace(attention="none"), TINY.replace(attention="bam(kernel=inductor)"), TINY.replace(compile=True)
    assert not any(map(kernel.is_open, fixed))
    assert fastest(*fixed, TINY.replace(attention="se")) == ("torch", {})
    asked.clear()
    monkeypatch.setattr(kernel, "_SECONDS", 1)  # four steps of 0.2 s are less
    assert fastest() == ("torch", {"torch": 200.0}) and set(asked) == {"torch"}
    assert fastest(TINY.replace(accumulation=2))[1].keys() == {"torch", "inductor"}  # eight parts are not
    monkeypatch.setattr(kernel, "_STEPS", 5)
    assert fastest() == ("torch", {})


def test_a_gpu_also_tries_triton_and_other_devices_nothing():
    assert kernel.candidates(torch.device("cuda")) == ["torch", "triton", "inductor"]
    assert kernel.candidates(torch.device("mps")) == ["torch"]


@pytest.mark.parametrize("right", [True, False])
def test_modules_are_timed_for_real(monkeypatch, capsys, right):
    """Wrong results are not chosen; the first of several processes measures, so it synchronises no statistics."""
    tasks = []
    monkeypatch.setattr(kernel, "task_of", lambda recipe: tasks.append(task_of(recipe)) or tasks[-1])
    refine = inductor_gate._refine
    monkeypatch.setattr(inductor_gate, "_refine", refine if right else lambda *inputs: 2 * refine(*inputs))
    monkeypatch.setattr(inductor_gate, "_compiled", lambda function, threads: function)
    monkeypatch.setattr(kernel, "_STEPS", 1)
    assert fastest(TINY)[1].keys() == {"torch"}  # too short to try the others
    monkeypatch.setattr(kernel, "_SECONDS", 0)
    name, timings = fastest(TINY.replace(batchnorm="sync"), TINY.replace(attention="bam(reduction=4)"))
    assert name in timings and min(timings.values()) > 0
    assert timings.keys() == ({"torch", "inductor"} if right else {"torch"})
    assert {task.recipe.batchnorm for task in tasks} == {"batch"}
    assert ("its results differ from those of torch by 1 of their norm" in capsys.readouterr().out) != right


@pytest.fixture
def chosen(monkeypatch):
    """The kernel that measurements choose, in a list; and what they were asked for."""
    answers, asked = ["inductor"], []

    def measure(recipes, train, device, processes):
        asked.append([str(recipe.attention) for recipe in recipes])
        return answers[0], {"torch": 2.0, "inductor": 1.0}

    monkeypatch.setattr(kernel, "fastest", measure)
    return answers, asked


@pytest.fixture
def used(monkeypatch):
    """The kernels of the modules of all networks that were trained; here they train with torch."""
    kernels, use = [], kernel.use

    def noted(recipe, network):
        use(recipe, network)
        kernels.append([module.kernel for module in attended(network).values()])
        for module in attended(network).values():
            module.kernel = "torch"

    monkeypatch.setattr(kernel, "use", noted)
    return kernels


def test_a_run_keeps_what_was_measured_first(chosen, used, tmp_path):
    answers, asked = chosen
    record = run(TINY, tmp_path)
    assert record.recipe["kernel"] == "inductor" and used == [["inductor", "inductor"]]
    assert Record.read(tmp_path).kernel_ms == {"torch": 2.0, "inductor": 1.0}
    answers[0] = "torch"
    (tmp_path / "record.json").unlink()
    resumed = run(TINY, tmp_path, resume=True)
    assert resumed.recipe["kernel"] == resumed.environment["kernel"] == "inductor" and len(asked) == 1
    assert run(TINY.replace(kernel="torch"), tmp_path, resume=True).complete  # it may change


def test_a_comparison_measures_once_for_all_its_variants(chosen, used, tmp_path):
    answers, asked = chosen
    compare(TINY, ["none", "bam", "bam(kernel=torch)"], 1, tmp_path)
    answers[0] = "torch"
    compare(TINY, ["none", "bam", "bam(kernel=torch)"], 2, tmp_path)
    assert asked == [["bam"]]
    assert used == 2 * [[], ["inductor", "inductor"], ["torch", "torch"]]
    records, plan = read_comparison(tmp_path)
    assert {r.recipe["kernel"] for runs in records.values() for r in runs} == {"inductor"}
    used_by = {name: {r.environment["kernel"] for r in runs} for name, runs in records.items()}
    assert used_by == {"none": {"inductor"}, "bam": {"inductor"}, "bam(kernel=torch)": {"torch"}}
    assert plan["kernel_ms"] == {"torch": 2.0, "inductor": 1.0} and plan["recipe"]["kernel"] == "inductor"


def test_an_interrupted_run_keeps_its_timings(chosen, used, monkeypatch, tmp_path):
    def save(self, original=Session.save):
        original(self)
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Session, "save", save)
        run(TINY, tmp_path)
    assert run(TINY, tmp_path, resume=True).kernel_ms == {"torch": 2.0, "inductor": 1.0} and len(chosen[1]) == 1


def test_a_run_of_before_keeps_torch(chosen, monkeypatch, tmp_path):
    run(TINY.replace(kernel="torch"), tmp_path)
    path = tmp_path / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    del content["kernel"]
    path.write_text(yaml.safe_dump(content))
    assert run(TINY, tmp_path, resume=True).complete and Recipe.from_yaml(path).kernel == "auto"
    assert kernel.resolved(TINY, tmp_path).kernel == "torch" and not chosen[1]
    monkeypatch.setenv("BAM_KERNEL", "inductor")  # as it may have been then
    assert kernel.resolved(TINY, tmp_path).kernel == "inductor"


def test_what_stops_the_measurement_stops_the_run(monkeypatch, tmp_path):
    def fail(*arguments):
        raise ValueError("no such folder")

    monkeypatch.setattr(kernel, "fastest", fail)
    with pytest.raises(ValueError, match="no such folder"):
        run(TINY, tmp_path)


def test_bam_kernel_decides(chosen, used, monkeypatch, tmp_path):
    monkeypatch.setenv("BAM_KERNEL", "inductor")
    run(TINY, tmp_path)
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").kernel == "inductor" and used == [["inductor", "inductor"]]
    assert not chosen[1]
    run(TINY.replace(kernel="torch"), tmp_path / "explicit")
    assert used[1] == ["torch", "torch"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(backend.compiler()), reason="there is no C++ compiler")
def test_a_run_with_compiled_gates_resumes_bit_equal(tmp_path, monkeypatch):
    """In another process, in which smaller maps were compiled first."""
    recipe = TINY.replace(kernel="inductor", attention="bam(identity=true)", epochs=2)

    def save(self, original=Session.save):
        original(self)
        if self.progress.step == 6:
            raise InterruptedError

    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Session, "save", save)
        run(recipe, tmp_path / "parts", RunOptions(save_minutes=0))
    torch.compiler.reset()
    run(recipe.replace(batch_size=2, epochs=1), tmp_path / "other")
    run(recipe, tmp_path / "parts", resume=True)
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()
