"""Recipes for the embedded digits: they run on any machine."""

from bam.recipes.classification import ClassificationRecipe
from bam.recipes.detection import DetectionRecipe
from bam.recipes.vqa import VqaRecipe


def small() -> ClassificationRecipe:
    """The demo: ResNet-8, 12,000 images of 24 x 24 per run, about half a minute of one CPU core.

    It shows that the pipeline works, not whether BAM helps: runs this short rarely separate two networks.

    bam compare --recipe digits/small --attention none,bam --seeds 3 --jobs 2
    """
    return ClassificationRecipe(
        data="digits",
        data_options={"canvas": 24, "num_train": 4000},
        model="cifar/resnet8",
        epochs=3,
        batch_size=32,
        lr=0.1,
        warmup_epochs=0.5,
        precision="fp32",  # not "auto": the result of so short a run should not depend on timing
    )


def full() -> ClassificationRecipe:
    """ResNet-8, 72,000 images of 40 x 40 per run, a few minutes on 2 CPU cores.

    In a prototype, BAM lowered the error from 6.6 to 5.6 % in two seeds; here, five seeds show no difference
    (4.25 and 4.21 %, docs/reproducing.md).

    bam compare --recipe digits/full --attention none,bam --seeds 5
    """
    return small().replace(data_options={"canvas": 40, "num_train": 12000}, epochs=6, batch_size=64)


def detection() -> DetectionRecipe:
    """Detect digits: a small SSD on ResNet-8, 20,000 images of 64 x 64 per run, a few minutes on 2 CPU cores.

    bam compare --recipe digits/detection --attention none,bam --seeds 3
    """
    return DetectionRecipe(
        data="digits",
        data_options={"canvas": 64, "num_train": 2000, "num_test": 500, "augmentation": "none"},
        model="ssd_resnet8",
        epochs=10,
        batch_size=32,
        lr=0.05,
        warmup_epochs=0.5,
        clip_norm=10.0,
        precision="fp32",
    )


def vqa() -> VqaRecipe:
    """Answer questions about several digits: ResNet-8 and stacked attention, 64 x 64 pixels.

    Three seeds, without BAM: 91.1 ± 0.6 % of the answers are right (existence 98.8 %, counting 90.8 %); the words of
    the questions alone give 29.7 % (docs/reproducing.md). A run takes 13 to 48 minutes of one core.

    bam compare --recipe vqa/digits --attention none,bam --cross-modal none,question_guided,co_attention --seeds 3
    """
    return VqaRecipe(
        data="digits",
        data_options={"canvas": 64, "num_train": 4000, "num_test": 1000},
        model="cifar/resnet8",
        epochs=12,
        batch_size=32,
        optimizer="adamw",
        lr=2e-3,
        warmup_epochs=0.5,
        weight_decay=0.01,
        decay_weights_only=True,
        clip_norm=1.0,
        precision="fp32",
    )
