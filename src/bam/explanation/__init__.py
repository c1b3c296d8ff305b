"""What attention does on images: how much it strengthens each place, and pictures of that."""

from bam.explanation.pictures import overlay, save_png, side_by_side
from bam.explanation.recording import record, site_gains

__all__ = ["overlay", "record", "save_png", "side_by_side", "site_gains"]
