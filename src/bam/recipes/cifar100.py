"""Recipes on CIFAR-100.

The paper does not give its schedule for CIFAR-100. The recipes for its rows use the schedule that is usual for these
networks, and for the training code that its block structure and counts suggest: SGD with momentum 0.9, weight decay
5e-4, batch 128, 300 epochs, learning rate 0.1, divided by 10 after 1/2 and 3/4 of the epochs, padding of 4 pixels for
random crops, and flips.
Bottleneck blocks have the stride in their first 1x1 convolution, as the paper's counts show.
"""

from bam.recipes.classification import ClassificationRecipe


def resnet20() -> ClassificationRecipe:
    """ResNet-20, 0.28 M parameters: the smallest CIFAR-100 recipe, 60 epochs with a cosine; not in the paper.

    bam compare --recipe cifar100/resnet20 --attention none,bam --seeds 3
    """
    return ClassificationRecipe(
        data="cifar100", crop_padding=4, flip=True, model="cifar/resnet20", epochs=60, warmup_epochs=1
    )


def resnet20_fast() -> ClassificationRecipe:
    """ResNet-20 in 15 epochs for small budgets: one cycle of a high learning rate, larger batches, label smoothing.

    Not in the paper. The schedule rises for a fifth of the epochs and falls with a cosine, as in super-convergence
    (arXiv 1708.07120). Without attention it ends at 37.3 % error (seed 0), 200 epochs at 31.17 % (docs/reproducing.md).

    bam compare --recipe cifar100/resnet20_fast --attention none,bam --seeds 3
    """
    return resnet20().replace(
        epochs=15, warmup_epochs=3, batch_size=256, lr=0.4, label_smoothing=0.1, decay_weights_only=True
    )


def resnet18() -> ClassificationRecipe:
    """ResNet-18 with a CIFAR stem, 11.2 M parameters, 200 epochs with a cosine; not in the paper.

    bam compare --recipe cifar100/resnet18 --attention none,bam --seeds 3
    """
    return resnet20().replace(model="cifar/resnet18", epochs=200)


def _row(model: str) -> ClassificationRecipe:
    return ClassificationRecipe(
        data="cifar100", crop_padding=4, flip=True, model=model, epochs=300, schedule="step", nesterov=False
    )


def resnet50() -> ClassificationRecipe:
    """CIFAR-100 table, ResNet50: top-1 error 21.49 %, with BAM 20.00 % (printed, one run each).

    Ablations (printed): dilation 1, 2, 4, 6: 20.47, 20.28, 20.00, 20.08; reduction 4, 8, 16, 32: 20.46, 20.56, 20.00,
    21.24; channel branch 21.29, spatial branch 21.24; maximum 20.28, product 20.21; BAM in every block 20.88; SE in
    every block 20.72. Schedule: usual for CIFAR; the paper's is unknown. About 0.5 GPU hours per run (estimated).

    bam compare --recipe cifar100/resnet50 --attention none,bam --seeds 3
    bam compare --recipe cifar100/resnet50 --attention 'bam,bam(dilation=1),bam(dilation=2),bam(dilation=6)'
    bam compare --recipe cifar100/resnet50 --attention 'bam,bam(reduction=4),bam(reduction=8),bam(reduction=32)'
    bam compare --recipe cifar100/resnet50 --attention 'bam,bam(branch=channel),bam(branch=spatial)'
    bam compare --recipe cifar100/resnet50 --attention 'bam,bam(combine=max),bam(combine=product)'
    bam compare --recipe cifar100/resnet50 --attention 'bam,bam(sites=every block),se(sites=every block)'
    """
    return _row("cifar/resnet50_v1")


def resnet101() -> ClassificationRecipe:
    """CIFAR-100 table, ResNet101: top-1 error 20.00 %, with BAM 19.61 % (printed, one run each).

    Schedule: usual for CIFAR; the paper's is unknown. About 1.0 GPU hours per run (estimated).

    bam compare --recipe cifar100/resnet101 --attention none,bam --seeds 3
    """
    return _row("cifar/resnet101_v1")


def preresnet110() -> ClassificationRecipe:
    """CIFAR-100 table, PreResNet110: top-1 error 22.22 %, with BAM 21.96 % (printed, one run each).

    Its counts are those of 164 layers. Printed: BAM in every block 21.29, SE in every block 21.85. Schedule: usual for
    CIFAR; the paper's is unknown. About 0.1 GPU hours per run (estimated).

    bam compare --recipe cifar100/preresnet110 --attention none,bam --seeds 3
    bam compare --recipe cifar100/preresnet110 --attention 'bam,bam(sites=every block),se(sites=every block)'
    """
    return _row("cifar/preresnet110_v1")


def wide_resnet28_8() -> ClassificationRecipe:
    """CIFAR-100 table, WideResNet28 (w=8): top-1 error 20.40 %, with BAM 19.06 % (printed, one run each).

    Printed: BAM in every block 20.06, SE in every block 19.85. Schedule: usual for CIFAR; the paper's is unknown. About
    1.4 GPU hours per run (estimated).

    bam compare --recipe cifar100/wide_resnet28_8 --attention none,bam --seeds 3
    bam compare --recipe cifar100/wide_resnet28_8 --attention 'bam,bam(sites=every block),se(sites=every block)'
    """
    return _row("cifar/wide_resnet28_8")


def wide_resnet28_10() -> ClassificationRecipe:
    """CIFAR-100 table, WideResNet28 (w=10): top-1 error 18.89 %, with BAM 18.56 % (printed, one run each).

    Schedule: usual for CIFAR; the paper's is unknown. About 2.2 GPU hours per run (estimated).

    bam compare --recipe cifar100/wide_resnet28_10 --attention none,bam --seeds 3
    """
    return _row("cifar/wide_resnet28_10")


def resnext29_8x64d() -> ClassificationRecipe:
    """CIFAR-100 table, ResNeXt29 8x64d: top-1 error 18.18 %, with BAM 16.71 % (printed, one run each).

    Printed: BAM in every block 18.15. Schedule: usual for CIFAR; the paper's is unknown. About 2.1 GPU hours per run
    (estimated).

    bam compare --recipe cifar100/resnext29_8x64d --attention none,bam --seeds 3
    bam compare --recipe cifar100/resnext29_8x64d --attention 'bam,bam(sites=every block)'
    """
    return _row("cifar/resnext29_8x64d_v1")


def resnext29_16x64d() -> ClassificationRecipe:
    """CIFAR-100 table, ResNeXt29 16x64d: top-1 error 17.25 %, with BAM 16.39 % (printed, one run each).

    Printed: SE in every block 16.52. Schedule: usual for CIFAR; the paper's is unknown. About 4.1 GPU hours per run
    (estimated).

    bam compare --recipe cifar100/resnext29_16x64d --attention none,bam --seeds 3
    bam compare --recipe cifar100/resnext29_16x64d --attention 'bam,se(sites=every block)'
    """
    return _row("cifar/resnext29_16x64d_v1")


def densenet100_bc() -> ClassificationRecipe:
    """CIFAR-100 table, DenseNet100-BC (k=12): top-1 error 21.95 %, with BAM 20.65 % (printed, one run each).

    Schedule: usual for CIFAR; the paper's is unknown. About 0.1 GPU hours per run (estimated).

    bam compare --recipe cifar100/densenet100_bc --attention none,bam --seeds 3
    """
    return _row("cifar/densenet100_bc")
