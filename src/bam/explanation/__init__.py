"""What attention does on images: maps of how much it strengthens each place, statistics, tests and pictures."""

from bam.explanation.ablation import ablations, branch_alone
from bam.explanation.examination import examine
from bam.explanation.faithfulness import deletion_insertion
from bam.explanation.gradcam import grad_cam
from bam.explanation.pictures import hierarchy, overlay, save_png, side_by_side
from bam.explanation.pointing import pointing, pointing_at_objects
from bam.explanation.recording import record, site_gains
from bam.explanation.statistics import attention_statistics

__all__ = [
    "ablations", "attention_statistics", "branch_alone", "deletion_insertion", "examine", "grad_cam",
    "hierarchy", "overlay", "pointing", "pointing_at_objects", "record", "save_png", "side_by_side", "site_gains",
]  # fmt: skip
