"""Reduce errors of torch and onnxruntime to a one-line reason."""

import contextlib
import zipfile
from collections.abc import Iterator

#: The errors of torch and its exported files: exporters raise RuntimeError, guards of loaded programs and assertions
#: in networks raise AssertionError, a damaged .pt2 raises BadZipFile.
REFUSALS = (RuntimeError, ValueError, AssertionError, zipfile.BadZipFile)


def reason(error: BaseException) -> str:
    """The line that says what is wrong, from the root cause of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    items = [line.removeprefix("- ").split(". ")[0] for line in lines if line.startswith("- ")]
    return (items or lines)[0].rstrip(".")


@contextlib.contextmanager
def onnxruntime_refusals() -> Iterator[None]:
    """Turn onnxruntime's errors, which have no common base class, into RuntimeErrors."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    errors = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        yield
    except errors as error:
        raise RuntimeError(str(error)) from None
