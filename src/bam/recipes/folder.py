"""Recipes for images of your own, in a folder for each class."""

from bam.attention.spec import AttentionSpec
from bam.recipes.classification import ClassificationRecipe


def finetune() -> ClassificationRecipe:
    """Fine-tune torchvision's ResNet-50, pretrained on ImageNet, on a folder of yours; no row of the paper.

    Attention starts as the exact identity, so that both variants begin with the pretrained features. Give the folder
    (train/ and val/ with a folder for each class, or the class folders alone), and another network or weights as you
    like. --freeze-backbone trains the attention and the classifier alone.

    bam compare --recipe folder/finetune --data folder:PATH --attention none,bam --seeds 3
    bam compare --recipe folder/finetune --data folder:PATH --model timm/convnext_tiny --pretrained default
    """
    return ClassificationRecipe(
        data="folder:images",
        flip=True,
        model="resnet50",
        pretrained="DEFAULT",
        attention=AttentionSpec(identity=True),
        epochs=20,
        batch_size=64,
        lr=0.01,
        warmup_epochs=1,
        weight_decay=1e-4,
        decay_weights_only=True,
    )
