"""Recipes for ImageNet-1K, in a folder `imagenet` with `train/` and `val/` below the data root.

The schedule is that of the authors' released script, which trains ResNets: SGD with momentum 0.9, weight decay 1e-4 on
everything, batch 256, 90 epochs, learning rate 0.1, divided by 10 every 30 epochs; crops of random size and flips;
centre crops for testing. It is unknown whether the paper used it for its other networks. Bottleneck blocks have the
stride in their first 1x1 convolution, as the paper's counts show.
"""

from bam.recipes.classification import ClassificationRecipe


def _row(model: str, size: int = 224) -> ClassificationRecipe:
    return ClassificationRecipe(
        data="folder:imagenet",
        data_options={"size": size},
        flip=True,
        model=model,
        epochs=90,
        batch_size=256,
        schedule="step",
        milestones=[1 / 3, 2 / 3],
        nesterov=False,
        weight_decay=1e-4,
    )


def resnet18() -> ClassificationRecipe:
    """ImageNet table, ResNet18: top-1 / top-5 error 29.60 / 10.55 %, with BAM 28.88 / 10.01 % (printed).

    Schedule: the released script's. About 6 GPU hours per run (estimated).

    bam compare --recipe imagenet/resnet18 --attention none,bam --seeds 3
    """
    return _row("resnet18")


def resnet50() -> ClassificationRecipe:
    """ImageNet table, ResNet50: top-1 / top-5 error 24.56 / 7.50 %, with BAM 24.02 / 7.18 % (printed).

    The released weights have 23.14 / 6.58, see `bam.export.load_released`. Schedule: the released script's. About 12
    GPU hours per run (estimated).

    bam compare --recipe imagenet/resnet50 --attention none,bam --seeds 3
    """
    return _row("paper/resnet50")


def resnet101() -> ClassificationRecipe:
    """ImageNet table, ResNet101: top-1 / top-5 error 23.38 / 6.88 %, with BAM 22.44 / 6.29 % (printed).

    Schedule: the released script's. About 24 GPU hours per run (estimated).

    bam compare --recipe imagenet/resnet101 --attention none,bam --seeds 3
    """
    return _row("paper/resnet101")


def wide_resnet18_1_5() -> ClassificationRecipe:
    """ImageNet table, WideResNet18 (w=1.5): top-1 / top-5 error 26.85 / 8.88 %, with BAM 26.67 / 8.69 % (printed).

    Schedule: the released script's. About 12 GPU hours per run (estimated).

    bam compare --recipe imagenet/wide_resnet18_1.5 --attention none,bam --seeds 3
    """
    return _row("paper/wide_resnet18_1.5")


def wide_resnet18_2_0() -> ClassificationRecipe:
    """ImageNet table, WideResNet18 (w=2.0): top-1 / top-5 error 25.63 / 8.20 %, with BAM 25.00 / 7.81 % (printed).

    Schedule: the released script's. About 21 GPU hours per run (estimated).

    bam compare --recipe imagenet/wide_resnet18_2.0 --attention none,bam --seeds 3
    """
    return _row("paper/wide_resnet18_2.0")


def resnext50_32x4d() -> ClassificationRecipe:
    """ImageNet table, ResNeXt50 (32x4d): top-1 / top-5 error 22.85 / 6.48 %, with BAM 22.56 / 6.40 % (printed).

    Schedule: the released script's. About 12 GPU hours per run (estimated).

    bam compare --recipe imagenet/resnext50_32x4d --attention none,bam --seeds 3
    """
    return _row("paper/resnext50_32x4d")


def mobilenet() -> ClassificationRecipe:
    """ImageNet table, MobileNet: top-1 / top-5 error 31.39 / 11.51 %, with BAM 30.58 / 10.90 % (printed).

    Schedule: the released script's; the paper's for this network is unknown. About 1.8 GPU hours per run (estimated).

    bam compare --recipe imagenet/mobilenet --attention none,bam --seeds 3
    """
    return _row("paper/mobilenet")


def mobilenet_0_7() -> ClassificationRecipe:
    """ImageNet table, MobileNet (alpha=0.7): top-1 / top-5 error 34.86 / 13.69 %, with BAM 33.09 / 12.69 % (printed).

    Schedule: the released script's; the paper's for this network is unknown. About 0.9 GPU hours per run (estimated).

    bam compare --recipe imagenet/mobilenet_0.7 --attention none,bam --seeds 3
    """
    return _row("paper/mobilenet_0.7")


def mobilenet_192() -> ClassificationRecipe:
    """ImageNet table, MobileNet (rho=192/224): top-1 / top-5 error 32.89 / 12.33 %, with BAM 31.56 / 11.60 % (printed).

    Schedule: the released script's; the paper's for this network is unknown. About 1.3 GPU hours per run (estimated).

    bam compare --recipe imagenet/mobilenet_192 --attention none,bam --seeds 3
    """
    return _row("paper/mobilenet", size=192)


def squeezenet1_1() -> ClassificationRecipe:
    """ImageNet table, SqueezeNet v1.1: top-1 / top-5 error 43.09 / 20.48 %, with BAM 41.83 / 19.58 % (printed).

    Learning rate 0.04 as in SqueezeNet's paper (arXiv 1602.07360): 0.1 is too high without normalisation layers. Two
    modules, as the printed counts show. Schedule: the released script's; the paper's for this network is unknown. About
    1.1 GPU hours per run (estimated).

    bam compare --recipe imagenet/squeezenet1_1 --attention none,bam --seeds 3
    """
    return _row("squeezenet1_1").replace(lr=0.04, sites=["-2", "-1"])
