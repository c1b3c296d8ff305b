"""The command's entry point: runs a verb and reports errors in one line."""

import inspect
import os
import re
import select
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from bam.cli.explaining import examine, explain
from bam.cli.exporting import export
from bam.cli.installation import completion, doctor
from bam.cli.networks import cost, coverage, models, modules, paper, sites
from bam.cli.results import evaluate, predict
from bam.cli.training import compare, recipes, report, train
from bam.flags import flags_of, parse_flags
from bam.objects import trusting_code

#: Heading -> its verbs.
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "train and compare": (compare, train, report, recipes),
    "use and explain trained networks": (evaluate, predict, explain, examine, export),
    "inspect networks": (sites, cost, models, modules, paper, coverage),
    "inspect the installation": (doctor,),
}
VERBS = {verb.__name__: verb for verbs in GROUPS.values() for verb in verbs}
#: Verb -> example commands at the end of its help.
EXAMPLES = {
    "compare": [
        "bam compare --recipe digits/small --attention none,bam --seeds 3 --jobs 2",
        "bam compare --recipe folder/finetune --data folder:photos --attention 'none,bam,se(sites=bottlenecks)'",
    ],
    "train": [
        "bam train --recipe digits/small --attention 'bam(reduction=8)' --epochs 8 --out runs/mine",
        "bam train --recipe digits/small --attention 'bam(reduction=8)' --epochs 8 --out runs/mine --resume",
    ],
    "report": ["bam report comparisons/digits-small"],
    "evaluate": [
        "bam evaluate runs/mine",
        "bam evaluate my-model --data folder:photos --part all",
        "bam evaluate resnet50 --pretrained DEFAULT --data folder:photos",
    ],
    "predict": [
        "bam predict runs/mine photos more/cat.jpg --out predictions",
        "bam predict resnet50 photos --pretrained DEFAULT",
        "bam predict runs/questions photos --question 'how many 3s are there'",
    ],
    "explain": [
        "bam explain runs/mine photos",
        "bam explain resnet50 photos --pretrained DEFAULT --adapter attention.safetensors",
    ],
    "examine": [
        "bam examine runs/mine --limit 64",
        "bam examine resnet50 --pretrained DEFAULT --adapter attention.safetensors --data folder:photos",
    ],
    "export": [
        "bam export --run runs/mine --out model.onnx",
        "bam export --model resnet50 --attention bam --out model.pt2 --dynamic batch",
    ],
    "sites": ["bam sites resnet50", "bam sites mobilenet_v2 --attention 'bam(sites=stride 8)' --no-latency"],
    "cost": ["bam cost resnet50 --attention 'se(sites=bottlenecks)'"],
    "paper": ["bam paper --table SE"],
    "coverage": ["bam coverage --library torchvision", "bam coverage --short"],
}
#: Flags of every verb -> what they do.
COMMON = {
    "--trust-code": "run your own code that a record, recipe or comparison names as <module>:<name>",
    "--traceback": "show where an error occurred",
}

#: What gloo and NCCL say of a process that is gone.
_LOST_PEER = (
    r"(?i)connection (reset|closed) by (remote )?peer|connection refused|broken pipe|timed out waiting|pair closure|"
    r"connect timeout|remote process exited|socket timeout"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0 for success, 1 for a reported error, 2 for wrong usage, 128 plus the
    signal's number if interrupted (130 after Ctrl-C), 141 if the reader of its output has closed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    common = [word for word in words if word in COMMON]
    words = [word for word in words if word not in COMMON]
    try:
        try:
            status = _without_verb(words)
            return _run(words, common) if status is None else status
        finally:
            sys.stdout.flush()
    except Exception as error:  # users get a message for any error; --traceback shows where it occurred
        if isinstance(error, BrokenPipeError) and _reader_closed():
            return 128 + signal.SIGPIPE
        if "--traceback" in common:
            raise
        print(f"bam {words[0]}: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        command = words + common + (["--resume"] if words[0] == "train" and "--resume" not in words else [])
        print(f"bam {words[0]}: {str(stop) or 'stopped'}\ncontinue with: bam {shlex.join(command)}", file=sys.stderr)
        _leave_process_group()
        return 128 + getattr(stop, "signal", signal.SIGINT)


def _without_verb(words: list[str]) -> int | None:
    """Handle a command that has no verb, e.g. --version; returns the exit status, or None if the words have a verb."""
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from bam import __version__

        print(f"bam {__version__}")
        return 0
    if words[0] == "--completion":
        return _complete(words[1] if len(words) > 1 else "")
    if words[0] not in VERBS:
        print(f"bam: unknown verb {words[0]!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    return None


def _run(words: list[str], common: list[str]) -> int:
    with trusting_code("--trust-code" in common):
        verb = VERBS[words[0]]
        verb(**parse_flags(verb, words[1:], examples=EXAMPLES.get(words[0], ())))
    _leave_process_group()
    return 0


def _reader_closed() -> bool:
    """Whether the reader of stdout has closed it, as in `bam recipes | head`; if so, later output is discarded."""
    watcher = select.poll()
    watcher.register(sys.stdout.fileno(), 0)
    if not watcher.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _leave_process_group() -> None:
    """End torchrun's process group: threads still running at exit may abort the process."""
    distributed = sys.modules.get("torch.distributed")  # not imported: there is no group
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _message(error: Exception) -> str:
    """The message for the user; for an unexpected error, one line with its type and text."""
    own = type(error).__module__.split(".")[0] in ("builtins", "bam") and not isinstance(error, UnicodeError)
    if isinstance(error, OSError | ImportError) or (isinstance(error, ValueError | TypeError) and own):
        return str(error)
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
        size = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        needed = f" for {size[1]} at once" if size else ""
        return f"not enough memory{needed}: use smaller images, batches or networks"
    several = os.environ.get("WORLD_SIZE", "1") != "1"  # as torchrun and accelerate launch set it
    if several and isinstance(error, RuntimeError) and re.search(_LOST_PEER, str(error)):
        return (
            f"another process of this training has ended, or cannot be reached ({_first_line(error)}): see what it "
            "says; then give the command to all machines again (bam train: with --resume)"
        )
    text = f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")
    return f"unexpected error, {text}; if the files and flags are right, please report it with the --traceback output"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _complete(shell: str) -> int:
    try:
        flags = {name: [*flags_of(verb), *COMMON] for name, verb in VERBS.items()}
        print(completion(shell, flags, {name: _summary(verb) for name, verb in VERBS.items()}))
    except (ImportError, ValueError) as error:
        print(f"bam --completion: {error}", file=sys.stderr)
        return 1
    return 0


def _summary(verb: Callable[..., None]) -> str:
    return (inspect.getdoc(verb) or "").splitlines()[0]


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: bam VERB [--flags]   (bam VERB --help explains a verb, with examples)"]
    for heading, verbs in GROUPS.items():
        lines += ["", f"{heading}:", *(f"  {verb.__name__:<{width}}  {_summary(verb)}" for verb in verbs)]
    common = {"--version": "print the version", "--completion SHELL": "print a completion script, for bash or zsh"}
    for heading, flags in (("flags of every verb", COMMON), ("instead of a verb", common)):
        lines += ["", f"{heading}:", *(f"  {flag:<20}{meaning}" for flag, meaning in flags.items())]
    examples = ["bam sites resnet50", *EXAMPLES["compare"][:1], *EXAMPLES["explain"][:1]]
    return "\n".join([*lines, "", "examples:", *(f"  {line}" for line in examples)])
