"""huggingface_hub without a network: its own mixin, and a folder in the place of the Hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin, hub_mixin
from huggingface_hub.errors import LocalEntryNotFoundError

import bam.export
from bam.export import HubModel, from_pretrained, save_pretrained
from tests.export.test_pretrained import FILES, IMAGES, SMALL, assert_same, small
from tests.surgery.test_adapter import Gate


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The folder that stands for every repository; what is asked of the Hub is in its `asked`."""
    folder, asked = tmp_path / "repository", []

    def snapshot_download(repo_id, allow_patterns, **options):
        asked.append((repo_id, allow_patterns, options))
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        for name in allow_patterns:
            if (folder / name).exists():
                shutil.copy(folder / name, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda filename, **options: str(folder / filename))
    return folder, asked


def test_a_repository_is_read_like_a_folder(repository):
    folder, asked = repository
    model = small(sites=["layer1"])
    save_pretrained(model, folder, **SMALL)
    (folder / "pytorch_model.bin").write_bytes(b"what nobody asked for")
    assert_same(model, from_pretrained("owner/my.net-1"))
    from_pretrained("owner/net", revision="v1.0")
    assert asked == [("owner/my.net-1", ["config.json", "model.safetensors"], {"revision": None}),
                     ("owner/net", ["config.json", "model.safetensors"], {"revision": "v1.0"})]  # fmt: skip
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*config\.json"):
        from_pretrained("owner/net")


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no connection\nand more"), OSError("no connection"), ValueError("no connection")]
)
def test_a_repository_that_is_not_there(error, monkeypatch):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    message = "^there is no folder owner/net, and the Hugging Face Hub could not provide it: no connection$"
    with pytest.raises(FileNotFoundError, match=message):
        from_pretrained("owner/net")


def test_a_folder_comes_before_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small(sites=["layer1"])
    save_pretrained(model, "owner/net", **SMALL)
    assert_same(model, from_pretrained("owner/net"))


def test_the_mixin_reads_and_writes_the_same_files(repository, tmp_path):
    folder, asked = repository
    model = small(sites=["layer1", "layer3"], identity=True)
    save_pretrained(model, folder, **SMALL | {"classes": list("abcdefghij")})
    for source, options in ((folder, {}), (str(folder), {"map_location": "cpu", "strict": True}), ("owner/net", {})):
        loaded = HubModel.from_pretrained(source, **options)
        assert isinstance(loaded, PyTorchModelHubMixin) and not loaded.training
        assert_same(model, loaded.network)
        with torch.no_grad():
            assert torch.equal(loaded(IMAGES), model.eval()(IMAGES))
    assert len(asked) == 1 and asked[0][0] == "owner/net"
    fetch = {"revision": "abc", "token": False, "cache_dir": str(tmp_path), "local_files_only": True}
    HubModel.from_pretrained("owner/net", **fetch)
    assert asked[1][2] == fetch | {"force_download": False}
    loaded.save_pretrained(tmp_path / "again")
    assert sorted(os.listdir(tmp_path / "again")) == ["README.md", *FILES]
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    card = (tmp_path / "again" / "README.md").read_text()
    assert "library_name: bottleneck-attention" in card and "https://arxiv.org/abs/1807.06514" in card
    assert_same(model, from_pretrained(tmp_path / "again"))


def test_what_was_pushed_comes_back(repository, tmp_path, monkeypatch):
    folder, _ = repository
    pushed = []

    def upload_folder(self, folder_path, **options):
        shutil.copytree(folder_path, folder)
        pushed.append(options["repo_id"])
        return "https://huggingface.co/owner/net/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model = small(sites=["layer2"], attention=Gate, slope=3.0)
    save_pretrained(model, tmp_path / "net", **SMALL, attention=Gate)
    loaded = HubModel.from_pretrained(tmp_path / "net", attention=Gate)
    assert loaded.push_to_hub("owner/net").endswith("commit/1") and pushed == ["owner/net"]
    assert_same(model, from_pretrained("owner/net", attention=Gate))
    assert_same(model, HubModel.from_pretrained("owner/net", attention=Gate).network)


def test_a_network_that_nobody_described_is_not_pushed(tmp_path):
    with pytest.raises(ValueError, match="was not written: pass backbone=, mean=, std="):
        HubModel(small(sites=["layer1"])).save_pretrained(tmp_path / "net")


def test_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "bam.export.hub")
    monkeypatch.delattr(bam.export, "hub")
    for ask in (lambda: from_pretrained("owner/net"), lambda: bam.export.HubModel):
        with pytest.raises(
            ImportError, match=r"the Hub needs huggingface_hub: pip install 'bottleneck-attention\[hub\]'"
        ):
            ask()
    save_pretrained(small(sites=["layer1"]), tmp_path, **SMALL)
    from_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'HubModels'"):
        bam.export.HubModels  # noqa: B018


def test_it_is_imported_when_it_is_asked_for():
    probe = "import sys, bam.export; print(*{'huggingface_hub', 'safetensors', 'torchvision'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "" and Path(bam.export.__file__).name == "__init__.py"
