"""Surgery on networks: attach attention, train it, save it alone, switch it off, fuse it, and detach it again."""

from bam.surgery.adapter import load_attention, save_attention
from bam.surgery.finetuning import attention_groups, extend_optimizer, freeze_backbone
from bam.surgery.fusion import fuse
from bam.surgery.insertion import attach, attended, detach, without_attention

__all__ = [
    "attach", "attended", "attention_groups", "detach", "extend_optimizer",
    "freeze_backbone", "fuse", "load_attention", "save_attention", "without_attention",
]  # fmt: skip
