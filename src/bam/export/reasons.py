"""Why something is refused: torch's and onnxruntime's own words in one line."""

import contextlib
import zipfile
from collections.abc import Iterator

#: What torch and the files that it writes raise when they refuse: its exporters' errors are RuntimeErrors, a guard of
#: a loaded program or an assertion of the network is an AssertionError, a damaged .pt2 is a BadZipFile.
REFUSALS = (RuntimeError, ValueError, AssertionError, zipfile.BadZipFile)


def reason(error: BaseException) -> str:
    """The line of `error`, or of the error that caused it, that says what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    listed = [line.removeprefix("- ").split(". ")[0] for line in lines if line.startswith("- ")]
    return (listed or lines)[0].rstrip(".")


@contextlib.contextmanager
def onnxruntime_refusals() -> Iterator[None]:
    """Turn the errors of onnxruntime, which have nothing in common, into RuntimeErrors."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    known = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        yield
    except known as error:
        raise RuntimeError(str(error)) from None
