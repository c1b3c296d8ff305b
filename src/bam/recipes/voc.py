"""Detection on PASCAL VOC 2007: the paper's table, and a small run.

The schedule is that of SSD's paper (arXiv 1512.02325): SGD with momentum 0.9 and weight decay 5e-4, batch 32, 120,000
steps, learning rate 1e-3, divided by 10 at steps 80,000 and 100,000, and SSD's augmentation. We add a linear warm-up
and a limit on the gradient's norm. The BAM paper's own schedule is unknown. Training uses the trainval sets of 2007 and
2012; testing uses the test set of 2007 and its 11-point rule. `--data voc2007` trains on 2007 alone.
"""

from bam.recipes.detection import DetectionRecipe


def _row(model: str, backbone: str) -> DetectionRecipe:
    return DetectionRecipe(
        data="voc0712",
        data_options={"augmentation": "ssd"},
        model=model,
        backbone=backbone,
        epochs=232,
        batch_size=32,
        lr=1e-3,
        schedule="step",
        milestones=[2 / 3, 5 / 6],
        nesterov=False,
        warmup_epochs=1,
        clip_norm=10.0,
        evaluate_every=8,
    )


def ssd300_vgg16() -> DetectionRecipe:
    """VOC 2007 table, VGG16 SSD: 77.8 % mAP (printed; no row with BAM), 26.5 M parameters printed, 26.3 M here.

    About 3.3 GPU hours per run (estimated). Backbone weights: torchvision's for ImageNet.

    bam compare --recipe voc2007/ssd300_vgg16 --attention none,bam --seeds 3
    """
    return _row("ssd300_vgg16", "IMAGENET1K_V1")


def stairnet300_vgg16() -> DetectionRecipe:
    """VOC 2007 table, VGG16 StairNet: 78.9 % mAP, with BAM 79.3 % (printed), 32.0 and 32.1 M parameters.

    Here 28.7 and 28.8 M, because StairNet's layers are reconstructed from its abstract. BAM sits before each of the six
    prediction heads. About 3.4 GPU hours per run (estimated). Backbone weights: torchvision's for ImageNet.

    bam compare --recipe voc2007/stairnet300_vgg16 --attention none,bam --seeds 3
    """
    return _row("stairnet300_vgg16", "IMAGENET1K_V1")


def ssd300_mobilenet() -> DetectionRecipe:
    """VOC 2007 table, MobileNet SSD: 68.1 % mAP (printed; no row with BAM), 5.81 M parameters, as here.

    About 0.1 GPU hours per run (estimated; decoding takes longer). Train the backbone first: bam train --recipe
    imagenet/mobilenet.

    bam compare --recipe voc2007/ssd300_mobilenet --attention none,bam --seeds 3
    """
    return _row("ssd300_mobilenet", "runs/imagenet-mobilenet-none-seed0")


def stairnet300_mobilenet() -> DetectionRecipe:
    """VOC 2007 table, MobileNet StairNet: 70.1 % mAP, with BAM 70.6 % (printed), 5.98 and 6.00 M parameters, as here.

    BAM sits before each of the six prediction heads. About 0.1 GPU hours per run (estimated; decoding takes longer).
    Train the backbone first: bam train --recipe imagenet/mobilenet.

    bam compare --recipe voc2007/stairnet300_mobilenet --attention none,bam --seeds 3
    """
    return _row("stairnet300_mobilenet", "runs/imagenet-mobilenet-none-seed0")


def overfit() -> DetectionRecipe:
    """Overfit 16 images and detect their objects: a check of the whole pipeline, a few minutes on 2 CPU cores.

    Any copy of VOC 2007 will do; AP50 should end above 90 %.

    bam compare --recipe voc2007/overfit --attention none,bam --seeds 1
    """
    images = {"train": "trainval", "test": "trainval", "num_train": 16, "num_test": 16}
    return small().replace(
        data_options=images | {"augmentation": "none"},
        model="ssd_resnet20",
        model_options={"size": 160},
        epochs=200,
        batch_size=4,
        lr=0.03,
        warmup_epochs=5,
        evaluate_every=50,
    )


def small() -> DetectionRecipe:
    """StairNet on MobileNet, from random weights on VOC 2007, to try the pipeline; not in the paper.

    The run is too short to learn to detect anything.

    bam compare --recipe voc2007/small --attention none,bam --seeds 2
    """
    return DetectionRecipe(
        data="voc2007",
        data_options={"augmentation": "flip"},
        model="stairnet300_mobilenet",
        epochs=2,
        batch_size=8,
        lr=0.02,
        warmup_epochs=0.5,
        clip_norm=10.0,
    )
