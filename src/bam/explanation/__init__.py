"""What attention does on images: how much it strengthens each place, and pictures of that."""

from bam.explanation.pictures import hierarchy, overlay, save_png, side_by_side
from bam.explanation.recording import record, site_gains

__all__ = ["hierarchy", "overlay", "record", "save_png", "side_by_side", "site_gains"]
