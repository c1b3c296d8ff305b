"""The verb doctor, which shows what is installed, and shell completion."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PACKAGE = "bottleneck-attention"
#: Extras that only combine others, or are for developing this package.
_NOT_SHOWN = ("all", "dev", "docs")


def doctor() -> None:
    """Show versions, devices, kernels and extras, and the command that installs missing packages."""
    import torch

    from bam import __version__

    print(f"bam {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    for line in (*_devices(), _kernel(), _data()):
        print(line)
    missing: dict[str, None] = {}
    for extra, packages in sorted(_extras().items()):
        absent = [package for package in packages if not _is_installed(package)]
        print(f"extra {extra:8} {'ok' if not absent else 'missing: ' + ', '.join(absent)}")
        missing |= dict.fromkeys(absent)
    if missing:
        print(f"to install what is missing: pip install {shlex.join(missing)}")


def _devices() -> list[str]:
    import torch

    names = [
        f"GPU {number}: {torch.cuda.get_device_name(number)}, "
        f"{torch.cuda.get_device_properties(number).total_memory / 2**30:.0f} GiB"
        for number in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        names.append("GPU: Apple (mps)")
    return names or ["GPU: none that torch can use"]


def _kernel() -> str:
    import torch

    from bam.kernels.backend import compiler, named

    chosen, triton = named(None), importlib.util.find_spec("triton") is not None
    state = "needs a GPU" if triton else "is not installed"
    usable = "is available" if triton and torch.cuda.is_available() else state
    compiled = "is available" if shutil.which(compiler()) else f"needs a C++ compiler; there is no {compiler()}"
    name = "torch; long training runs measure" if chosen == "auto" else chosen
    return f"kernel: {name} (BAM_KERNEL chooses; inductor {compiled}; triton {usable})"


def _data() -> str:
    folder = Path(os.environ.get("BAM_DATA") or "data")
    return f"data: {folder} ({'exists' if folder.is_dir() else 'does not exist'}; BAM_DATA or --data-root chooses)"


def _extras() -> dict[str, list[str]]:
    """Extra -> its requirements, such as 'timm>=1.0.31', with those of the extras it includes.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        requirements = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"{_PACKAGE} is imported but not installed: pip install PATH_OF_ITS_CLONE") from None
    own: dict[str, list[str]] = {}
    for requirement in requirements:
        package, _, condition = requirement.partition(";")
        if extra := re.search(r"""extra == ["']([\w-]+)["']""", condition):
            own.setdefault(extra[1], []).append(package.strip())

    def expanded(extra: str) -> dict[str, None]:
        packages: dict[str, None] = {}
        for package in own.get(extra, []):
            included = re.fullmatch(rf"{_PACKAGE}\[([\w,-]+)\]", package)
            for name in included[1].split(",") if included else ():
                packages |= expanded(name)
            packages |= {} if included else {package: None}
        return packages

    return {extra: list(expanded(extra)) for extra in own if extra not in _NOT_SHOWN}


def _is_installed(requirement: str) -> bool:
    """Whether a package is installed in at least the version that `requirement` asks for."""
    name, _, minimum = re.sub(r"\[.*?\]", "", requirement).partition(">=")
    try:
        return _release(importlib.metadata.version(name)) >= _release(minimum)
    except importlib.metadata.PackageNotFoundError:
        return False


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def completion(shell: str, flags: Mapping[str, Iterable[str]], helps: Mapping[str, str]) -> str:
    """The command's completion script for bash or zsh.

    Args:
        shell: "bash" or "zsh".
        flags: verb -> its flags.
        helps: verb -> what it does.

    Raises:
        ValueError: for any other shell.
        ImportError: if shtab is not installed.
    """
    if shell not in ("bash", "zsh"):
        raise ValueError(f"shell must be bash or zsh, got {shell!r}")
    try:
        import shtab
    except ImportError:
        raise ImportError("completion needs shtab: pip install shtab") from None
    parser = ArgumentParser(prog="bam")
    verbs = parser.add_subparsers()
    for name, names in flags.items():
        verb = verbs.add_parser(name, help=helps[name], add_help=False)
        for word in (*names, "files"):
            action: Any = verb.add_argument(word, nargs=None if word.startswith("-") else "*")
            action.complete = shtab.FILE
    return shtab.complete(parser, shell)
