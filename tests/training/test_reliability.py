"""What a run does when something goes wrong around it: divergence, locks, signals, another environment."""

import hashlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch

from bam import cli
from bam.files import strict_json
from bam.recipes import ClassificationRecipe, Recipe, RunOptions
from bam.records import Record, environment
from bam.reports import summarize
from bam.training import Diverged, Interrupted, compare, run, session
from bam.training.comparison import read_comparison
from bam.training.lock import NAME, _machine, locked
from bam.training.states import load_state, save_state
from bam.training.stopping import stop_request

TINY = ClassificationRecipe(
    data_options={"num_train": 320, "num_test": 100, "canvas": 16}, batch_size=32, epochs=2, precision="fp32"
)


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_diverged_run_fails_and_says_where(tmp_path):
    with pytest.raises(Diverged, match=r"not finite at step 1, learning rate 9.*no earlier state; choose a lower --lr"):
        run(TINY.replace(lr=1e30), tmp_path)
    content = strict(tmp_path / "record.json")
    assert content["failure"]["step"] == 1 and not content["final"] and not content["history"]
    assert not (tmp_path / "model.safetensors").exists() and not list(tmp_path.glob("state-*"))


def test_the_last_good_state_is_kept(tmp_path, monkeypatch):
    run(TINY, tmp_path)
    (tmp_path / "record.json").unlink()
    state = load_state(tmp_path)
    good = {name: value.clone() for name, value in state["model"].items()}
    state["progress"] |= {"epoch": 1, "step": 10, "step_in_epoch": 0}
    for path in tmp_path.glob("state-*"):
        path.unlink()
    save_state(tmp_path, 10, state)
    monkeypatch.setattr("bam.training.loop.learning_rate", lambda *arguments: 1e30)
    with pytest.raises(Diverged, match="the last good state is that of step 10"):
        run(TINY, tmp_path, resume=True)
    assert all(value.equal(good[name]) for name, value in load_state(tmp_path)["model"].items())


def test_a_comparison_goes_on_and_shows_the_failed_seed(tmp_path, monkeypatch):
    real = session.Session.train

    def train(self, seconds):
        if self.out.name == "bam-seed0":
            self._fail("loss or weight", 7, 0.1)
        return real(self, seconds)

    monkeypatch.setattr(session.Session, "train", train)
    compare(TINY.replace(epochs=1), ["none", "bam"], 2, tmp_path)
    cli.VERBS["report"](tmp_path)
    summary = strict(tmp_path / "summary.json")
    assert [(each["name"], each["seed"]) for each in summary["failures"]] == [("bam", 0)]
    assert summary["comparisons"][0]["verdict"] == "no verdict: bam seed 0 failed"
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "No verdict on bam against none (bam seed 0 failed)" in text
        assert "bam seed 0 failed: training diverged" in text
    assert "bam,0,failed" in (tmp_path / "summary.csv").read_text()


def test_runs_of_before_that_diverged_count_as_failed(tmp_path):
    run(TINY.replace(epochs=1), tmp_path)
    content = json.loads((tmp_path / "record.json").read_text())
    content["final"]["test_loss"] = math.nan
    for name in ("failure", "stretches"):
        del content[name]
    (tmp_path / "record.json").write_text(json.dumps(content))
    record = Record.read(tmp_path)
    assert record.failure and not record.complete
    with pytest.raises(ValueError, match="no run of 'none' is complete .seed 0: training diverged"):
        summarize({"none": [record]})


def test_numbers_are_finite():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON compliant"):
            strict_json({"x": value})
        with pytest.raises(ValueError, match="lr must be finite"):
            Recipe.from_dict({"lr": value})


def other_owner(folder, **changes):
    folder.mkdir(exist_ok=True)
    owner = {"host": "elsewhere", "pid": 1, "started": "2026-01-01T00:00:00", "birth": ""} | changes
    (folder / NAME).write_text(json.dumps(owner))
    return folder / NAME


def test_a_second_run_is_refused(tmp_path):
    compare(TINY.replace(epochs=1), ["none"], 1, tmp_path)
    with locked(tmp_path), pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .*another --out"):
        compare(TINY.replace(epochs=1), ["none"], 2, tmp_path)
    assert not (tmp_path / NAME).exists()
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="run is in use by process"):
        run(TINY, tmp_path / "run")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    holder = f"from bam.training.lock import locked; from pathlib import Path\nwith locked(Path({str(tmp_path)!r})):"
    process = subprocess.Popen([sys.executable, "-c", f"{holder} input()"], stdin=subprocess.PIPE)
    while not (tmp_path / NAME).exists() or not (tmp_path / NAME).read_text():
        time.sleep(0.05)
    with pytest.raises(ValueError, match=f"process {process.pid}"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_another_machine_goes_stale(tmp_path):
    path = other_owner(tmp_path)
    with pytest.raises(ValueError, match="process 1 on elsewhere.*5 minutes"), locked(tmp_path):
        pass
    os.utime(path, (time.time() - 301,) * 2)
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", [b"", b"\0" * 40, b'{"host": "a", "pi', b"[]", b'{"host": "elsewhere"}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_damaged_lock_does_not_block_for_ever(tmp_path, text):
    path = other_owner(tmp_path)
    path.write_bytes(text)
    with pytest.raises(ValueError, match="is in use by process"), locked(tmp_path):
        pass
    os.utime(path, (time.time() - 301,) * 2)
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_of_another_container_on_the_host_counts_as_elsewhere(tmp_path):
    here = {key: value for key, value in _machine().items() if key != "processes"}
    other_owner(tmp_path, pid=2**22 + 1, processes="pid:[1]", **here)
    with pytest.raises(ValueError, match="is in use by process"), locked(tmp_path):
        pass


def test_a_lock_leaves_folders_that_were_there(tmp_path):
    with locked(tmp_path / "runs" / "new"):
        pass
    with locked(tmp_path):
        pass
    assert tmp_path.exists() and not list(tmp_path.iterdir())


def test_a_mask_of_infinities_is_no_divergence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "masked.py").write_text(
        "import torch\nfrom bam.models import build\n"
        "def net(num_classes):\n    model = build('cifar/resnet8', num_classes)\n"
        "    model.register_buffer('mask', torch.full((2,), -torch.inf))\n    return model\n"
    )
    assert run(TINY.replace(model="masked:net", epochs=1), tmp_path / "run").complete


def test_attention_at_other_places_is_another_run(tmp_path):
    recipe = TINY.replace(epochs=1)
    compare(recipe, ["none", "se"], 1, tmp_path)
    path = tmp_path / "se-seed0" / "record.json"
    content = json.loads(path.read_text()) | {"sites": ["layer1", "layer2"]}  # as an earlier version put it
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="se-seed0 holds a run with attention at layer1, layer2, and this one"):
        compare(recipe, ["none", "se"], range(1, 2), tmp_path)
    path.write_text(json.dumps(content | {"final": {}}))
    with pytest.raises(ValueError, match="holds a run with attention at layer1, layer2, and this one"):
        run(recipe.replace(attention="se"), path.parent, resume=True)


def test_looks_of_before_and_damaged_ones_do_not_stop_the_report(tmp_path):
    compare(TINY.replace(epochs=1), ["none", "bam"], 1, tmp_path)
    path = tmp_path / "attention" / "bam" / "look.json"
    before = json.loads(path.read_text())
    del before["seed"]
    harms = {"statistics": 1, "pointing": [1], "views": [{}], "pictures": [{"file": 1}]}
    damaged = [before | {name: value} for name, value in harms.items()]
    for content in (before, [1], {"weights": 1}, {"weights": "a", "views": [1]}, *damaged):
        path.write_text(json.dumps(content))
        cli.VERBS["report"](tmp_path)
        assert ("What bam attends to, seed 0" in (tmp_path / "report.md").read_text()) == (content is before)


def test_a_resume_with_another_number_of_processes_is_refused(tmp_path, monkeypatch):
    def stopped(self, stop):
        return self.progress.step == 5

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_all_stop", stopped)
        with pytest.raises(Interrupted):
            run(TINY, tmp_path)
    monkeypatch.setattr(session, "environment", lambda *arguments: environment(*arguments[:3], 2))
    with pytest.raises(ValueError, match="another number of processes .1 there, 2 here.*--allow-mixed"):
        run(TINY, tmp_path, resume=True)
    record = run(TINY, tmp_path, RunOptions(allow_mixed=True), resume=True)
    assert [(each["from_step"], each["processes"]) for each in record.stretches] == [(0, 1), (5, 2)]
    assert summarize({"none": [record]})["other_environments"] == {"processes": [1]}


def test_the_report_says_what_the_runs_differ_in(tmp_path):
    compare(TINY.replace(epochs=1), ["none", "bam"], 1, tmp_path)
    content = json.loads((tmp_path / "bam-seed0" / "record.json").read_text())
    content["stretches"][0]["device"] = "cuda"
    content["stretches"][0]["versions"]["torch"] = "3.0"
    (tmp_path / "bam-seed0" / "record.json").write_text(json.dumps(content))
    cli.VERBS["report"](tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "device (cpu; cuda)" in page and f"versions (torch {torch.__version__.partition('+')[0]}; torch 3.0)" in page
    assert read_comparison(tmp_path)[0]["bam"][0].complete


def test_a_state_of_another_seed_is_refused(tmp_path):
    for seed in (0, 1):
        run(TINY.replace(seed=seed, epochs=1), tmp_path / str(seed))
    for path in (tmp_path / "0").glob("state-*"):
        path.unlink()
    for path in (tmp_path / "1").glob("state-*"):
        path.rename(tmp_path / "0" / path.name)
    (tmp_path / "0" / "record.json").unlink()
    with pytest.raises(ValueError, match="state of another run .seed is 1 there, not 0"):
        run(TINY.replace(epochs=1), tmp_path / "0", resume=True)


def test_files_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".state-000000001-0.pt.1.tmp").write_text("half")
    run(TINY.replace(epochs=1), tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_exit_statuses_name_the_signal(number, monkeypatch, capsys):
    def stop(**arguments):
        raise Interrupted("stopped", number)

    monkeypatch.setitem(cli.VERBS, "models", stop)
    monkeypatch.setattr(sys.modules["bam.cli.main"], "parse_flags", lambda verb, words, **options: {})
    assert cli.main(["models"]) == 128 + number
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signals_are_requests_to_stop(number):
    before = signal.signal(number, signal.SIG_DFL)  # a test run under nohup ignores some
    with stop_request() as received:
        os.kill(os.getpid(), number)
        assert received == [number]
    signal.signal(number, before)


def test_only_repeated_terms_are_one_request():
    with stop_request() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nohup_keeps_hangups_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [1], "it holds a list"),
        (lambda state: {}, "it has no "),
        (lambda state: state | {"progress": {"step": 1}}, "it has no "),
        (lambda state: state | {"progress": state["progress"] | {"step": "1"}}, "step must be of type int, got '1'"),
        (lambda state: state | {"progress": state["progress"] | {"add": 1}}, "it has an unknown entry 'add'"),
        (lambda state: state | {"model": {}}, "does not fit this network .Error"),
        (
            lambda state: state | {"optimizer": {"state": {}, "param_groups": []}},
            "does not fit this network .loaded state",
        ),
        (lambda state: state | {"history": "[1]"}, "history must be of type"),
        (lambda state: state | {"recipe": "[" * 9999}, "is damaged, or was not written by bam"),
        (lambda state: state | {"stretches": "[1]"}, "is damaged, or was not written by bam"),
        (
            lambda state: state | {"model": {name: value[..., None] for name, value in state["model"].items()}},
            "fit this",
        ),
        (lambda state: _reshaped(state), "the optimizer's momentum_buffer has another shape"),
    ],
)
def test_foreign_states_with_a_right_digest_are_refused(change, message, finished, tmp_path):
    (tmp_path / "recipe.yaml").write_text((finished / "recipe.yaml").read_text())
    save_state(tmp_path, 1, change(load_state(finished)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"training state.*{message}"):
        run(TINY.replace(epochs=1), tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def _reshaped(state):
    for values in state["optimizer"]["state"].values():
        values["momentum_buffer"] = values["momentum_buffer"][..., None]
    return state


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_too_little_memory_condemns_no_state(error, finished, monkeypatch):
    def fail(*_, **__):
        raise error("out of memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(error):
        load_state(finished)


def test_hostile_states_run_nothing(finished, tmp_path):
    content = pickle.dumps(Hostile(str(tmp_path / "mark")))
    digest = hashlib.sha256(content).hexdigest()[:16]
    (tmp_path / f"state-000000001-{digest}.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is not a training state of bam .UnpicklingError.: move it away"):
        load_state(tmp_path)
    assert not (tmp_path / "mark").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(TINY.replace(epochs=1), folder)
    return folder
