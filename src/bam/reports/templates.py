"""Jinja templates of pages and reports."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(*, autoescape: bool = True) -> "Environment":
    """The Jinja environment for this package's templates; with `autoescape`, values are escaped for HTML.

    Raises:
        ImportError: if jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(f"reports need {error.name}: pip install 'bottleneck-attention[report]'") from None
    return Environment(
        loader=PackageLoader("bam", "reports"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
