"""Recipes on CIFAR-100.

The paper's own schedule is not known. These use the schedule usual for CIFAR (SGD with momentum 0.9, weight decay 5e-4,
learning rate 0.1, batch 128; crops of 4 pixels and flips), with a cosine instead of steps.
"""

from bam.recipes.recipe import Recipe


def resnet20() -> Recipe:
    """ResNet-20, 0.28 M parameters: the small one, 60 epochs; no row of the paper.

    bam compare --recipe cifar100/resnet20 --attention none,bam --seeds 3
    """
    return Recipe(data="cifar100", crop_padding=4, flip=True, model="cifar/resnet20", epochs=60, warmup_epochs=1)


def resnet18() -> Recipe:
    """ResNet-18 with a CIFAR stem, 11.2 M parameters, 200 epochs; no row of the paper.

    bam compare --recipe cifar100/resnet18 --attention none,bam --seeds 3
    """
    return resnet20().replace(model="cifar/resnet18", epochs=200)


def resnet50() -> Recipe:
    """ResNet-50 with a CIFAR stem, 23.71 M parameters, 24.07 M with BAM, 200 epochs.

    Printed in the paper (CIFAR-100 table): 21.49 % top-1 error, 20.00 % with BAM; a single run each.

    bam compare --recipe cifar100/resnet50 --attention none,bam --seeds 3
    """
    return resnet20().replace(model="cifar/resnet50", epochs=200)
