"""What attention does on images: how much it strengthens each place, and pictures of that."""

from bam.explanation.gains import site_gains
from bam.explanation.pictures import overlay, save_png, side_by_side

__all__ = ["overlay", "save_png", "side_by_side", "site_gains"]
