"""Detection on MS COCO 2017: the paper's table, and a small run.

This is the usual schedule for Faster R-CNN with a feature pyramid ("1x"): 12 epochs, batch 16, learning rate 0.02 and a
tenth of it after 2/3 and 8/9 of the epochs, weight decay 1e-4, frozen BatchNorms in the backbone, images of 800 pixels.
The paper's numbers are lower than this schedule's, because the paper had no feature pyramid.
"""

from bam.attention.spec import AttentionSpec
from bam.recipes.detection import DetectionRecipe


def _row(model: str) -> DetectionRecipe:
    return DetectionRecipe(
        data="coco",
        data_options={"augmentation": "flip", "invalid": "drop"},
        model=model,
        backbone="IMAGENET1K_V1",
        batchnorm="frozen",
        attention=AttentionSpec(identity=True),
        epochs=12,
        batch_size=16,
        lr=0.02,
        schedule="step",
        milestones=[2 / 3, 8 / 9],
        nesterov=False,
        weight_decay=1e-4,
        warmup_epochs=0.14,
        deterministic=False,
    )


def fasterrcnn_resnet50_fpn() -> DetectionRecipe:
    """Faster R-CNN, ResNet-50 with a feature pyramid; not in the paper.

    torchvision's own weights for this detector have AP 37.0 %. About 7 GPU hours per run (estimated).

    bam compare --recipe coco/fasterrcnn_resnet50_fpn --attention none,bam --seeds 3
    """
    return _row("fasterrcnn_resnet50_fpn")


def fasterrcnn_resnet101_fpn() -> DetectionRecipe:
    """COCO table, Faster R-CNN, ResNet101: AP 29.1 %, with BAM 30.4 % (printed).

    AP50 48.4 and 50.2, AP75 30.7 and 32.5 %. The paper's backbones were trained on ImageNet with and without BAM; to
    use such runs, write 'none(backbone=runs/plain),bam(backbone=runs/bam,identity=false)'. Otherwise BAM starts as the
    exact identity. About 9.5 GPU hours per run (estimated).

    bam compare --recipe coco/fasterrcnn_resnet101_fpn --attention none,bam --seeds 3
    """
    return _row("fasterrcnn_resnet101_fpn")


def small() -> DetectionRecipe:
    """Faster R-CNN on MobileNetV3 from random weights with images of 320 pixels, to try the pipeline.

    The run is too short to learn to detect anything.

    bam compare --recipe coco/small --attention none,bam --seeds 2
    """
    return _row("fasterrcnn_mobilenet_v3_large_fpn").replace(
        model_options={"min_size": [256, 320], "max_size": 480},
        backbone=None,
        batchnorm="batch",
        identity=False,
        epochs=1,
        batch_size=4,
        clip_norm=10.0,
    )
