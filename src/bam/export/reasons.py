"""The reason for an error of torch or onnxruntime, in its own words and in one line."""

import contextlib
import zipfile
from collections.abc import Iterator

#: The errors of torch and of its exported files: exporters raise RuntimeErrors, guards of loaded programs and
#: assertions of networks raise AssertionErrors, a damaged .pt2 raises BadZipFile.
REFUSALS = (RuntimeError, ValueError, AssertionError, zipfile.BadZipFile)


def reason(error: BaseException) -> str:
    """The line that says what is wrong, of `error` or of the error that caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    items = [line.removeprefix("- ").split(". ")[0] for line in lines if line.startswith("- ")]
    return (items or lines)[0].rstrip(".")


@contextlib.contextmanager
def onnxruntime_refusals() -> Iterator[None]:
    """Turn the errors of onnxruntime, which have no base class in common, into RuntimeErrors."""
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
