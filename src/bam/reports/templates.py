"""The templates of pages and reports."""

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise ImportError(f"reports need {error.name}: pip install 'bottleneck-attention[report]'") from None


def environment() -> Environment:
    """An environment for the templates of this room; it escapes markup."""
    return Environment(
        loader=PackageLoader("bam", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
