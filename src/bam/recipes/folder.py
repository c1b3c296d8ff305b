"""Recipes for your own images, with one folder per class."""

from bam.attention.spec import AttentionSpec
from bam.recipes.classification import ClassificationRecipe


def finetune() -> ClassificationRecipe:
    """Fine-tune torchvision's ResNet-50, pretrained on ImageNet, on your own folder; not in the paper.

    Attention starts as the exact identity, so both variants begin with the pretrained features. The folder contains
    train/ and val/ with one folder per class, or just the class folders. You can choose another network or other
    weights. --freeze-backbone trains only the attention and the classifier.

    bam compare --recipe folder/finetune --data folder:PATH --attention none,bam --seeds 3
    bam compare --recipe folder/finetune --data folder:PATH --model timm/convnext_tiny --pretrained default
    """
    return ClassificationRecipe(
        data="folder:images",
        data_options={"scale": [0.35, 1.0]},
        flip=True,
        model="resnet50",
        pretrained="DEFAULT",
        attention=AttentionSpec(identity=True),
        epochs=5,
        batch_size=32,
        optimizer="adamw",
        lr=1e-4,
        new_lr=10,
        warmup_epochs=1,
        weight_decay=0.01,
        decay_weights_only=True,
        label_smoothing=0.1,
        new_classifier="probe",
        frozen_statistics=True,
        ema=0.99,
    )
