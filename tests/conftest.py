import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.browser.fixtures import chromium, looks_right, visit  # noqa: F401  # fixtures of all tests

if not torch.cuda.is_available():
    # Triton, whose kernels a CPU can interpret, reads it when it is imported, which torch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_finish():
    gc.freeze()  # the million objects of the imported libraries: collections while the tests run need not look at them


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory):
    """The real CIFAR-100: BAM_DATA, or unpacked from the shared folder beside the checkout."""
    named = os.environ.get("BAM_DATA")
    if named and (Path(named) / "cifar-100-python").is_dir():
        return Path(named)
    unpack = SHARED_DATA / "unpack_cifar100.py"
    if not unpack.exists():
        # The data may not be copied into the project, and tests download nothing.
        pytest.skip("CIFAR-100 is not here: set BAM_DATA to the folder that holds cifar-100-python")
    folder = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(unpack), str(folder)], check=True, capture_output=True)
    return folder


def skip_before_torch(version: str, reason: str) -> None:
    """Skip the test if torch is older than `version`, e.g. "2.13"."""
    installed, wanted = ([int(part) for part in text.split(".")[:2]] for text in (torch.__version__, version))
    if installed < wanted:
        pytest.skip(f"before torch {version}, {reason}")


def restless(model: torch.nn.Module) -> torch.nn.Module:
    """`model` with random normalisation statistics and affine parameters, as after training, none near neutral."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    return model
