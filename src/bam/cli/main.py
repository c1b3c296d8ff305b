"""The command itself: runs a verb, and reports errors in one sentence."""

import inspect
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from bam.cli.explaining import examine, explain
from bam.cli.exporting import export
from bam.cli.networks import cost, coverage, models, modules, paper, sites
from bam.cli.results import evaluate, predict
from bam.cli.training import compare, recipes, report, train
from bam.flags import parse_flags
from bam.objects import trusting_code

VERBS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        compare,
        train,
        report,
        evaluate,
        predict,
        explain,
        examine,
        sites,
        cost,
        export,
        models,
        modules,
        recipes,
        paper,
        coverage,
    )  # fmt: skip
}
#: Flags of every verb -> what they do.
COMMON = {
    "--trust-code": "run code of your own that a record, a recipe or a comparison names as <module>:<name>",
    "--traceback": "show where an error arose",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0, 1 for a reported error, 2 for wrong usage, 128 and the
    signal's number if interrupted: 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    common = [word for word in words if word in COMMON]
    words = [word for word in words if word not in COMMON]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from bam import __version__

        print(f"bam {__version__}")
        return 0
    if words[0] not in VERBS:
        print(f"bam: unknown verb {words[0]!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    try:
        with trusting_code("--trust-code" in common):
            verb = VERBS[words[0]]
            verb(**parse_flags(verb, words[1:]))
        _leave_process_group()
        return 0
    except Exception as error:  # whatever is wrong, users get a sentence; --traceback shows where
        if "--traceback" in common:
            raise
        print(f"bam {words[0]}: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        command = words + common + (["--resume"] if words[0] == "train" and "--resume" not in words else [])
        print(f"bam {words[0]}: {str(stop) or 'stopped'}\ncontinue with: bam {shlex.join(command)}", file=sys.stderr)
        _leave_process_group()
        return 128 + getattr(stop, "signal", signal.SIGINT)


def _leave_process_group() -> None:
    """End torchrun's process group: threads that are left at the end of a process may abort it."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _sentence(error: Exception) -> str:
    """What to tell the user; one line for an error that nobody has written a message for."""
    own = type(error).__module__.split(".")[0] in ("builtins", "bam") and not isinstance(error, UnicodeError)
    if isinstance(error, OSError | ImportError) or (isinstance(error, ValueError | TypeError) and own):
        return str(error)
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
        size = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        needed = f" for {size[1]} at once" if size else ""
        return f"there is not enough memory{needed}: choose smaller images, batches or networks"
    what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")
    return f"unexpected error, {what}; if the files and flags are right, report it with what --traceback adds"


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = (f"  {name:<{width}}  {(inspect.getdoc(verb) or '').splitlines()[0]}" for name, verb in VERBS.items())
    common = (f"  {flag:<{width + 4}}  {meaning}" for flag, meaning in COMMON.items())
    title = "usage: bam VERB [--flags]   (bam VERB --help explains a verb)"
    return "\n".join([title, "", *lines, "", "flags of every verb:", *common])
