"""The paper's tables as printed (arXiv 1807.06514), each row with the recipe that builds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One printed row; strings are the printed digits, "" where the paper prints none.

    Attributes:
        network: the paper's name for it.
        recipe: a name in `bam.recipes.RECIPES`; it gives the row's network and image size.
        variant: the attention, in the form of `bam.recipes.variant`; "block" for one more block of the network's own
            kind at each bottleneck (the paper's control).
        params: millions of parameters.
        gflops: billions of multiply-adds, which the paper calls GFLOPs.
        result: top-1 error in percent (or top-1 / top-5) for classification, mean average precision for detection.
    """

    network: str
    recipe: str
    variant: str
    params: str = ""
    gflops: str = ""
    result: str = ""


BLOCKS = "sites=every block"

TABLES: dict[str, list[Row]] = {
    "CIFAR-100": [
        Row("ResNet50", "cifar100/resnet50", "none", "23.71", "1.22", "21.49"),
        Row("ResNet50 + BAM", "cifar100/resnet50", "bam", "24.07", "1.25", "20.00"),
        Row("ResNet101", "cifar100/resnet101", "none", "42.70", "2.44", "20.00"),
        Row("ResNet101 + BAM", "cifar100/resnet101", "bam", "43.06", "2.46", "19.61"),
        Row("PreResNet110", "cifar100/preresnet110", "none", "1.726", "0.245", "22.22"),
        Row("PreResNet110 + BAM", "cifar100/preresnet110", "bam", "1.733", "0.246", "21.96"),
        Row("WideResNet28 (w=8)", "cifar100/wide_resnet28_8", "none", "23.40", "3.36", "20.40"),
        Row("WideResNet28 (w=8) + BAM", "cifar100/wide_resnet28_8", "bam", "23.42", "3.37", "19.06"),
        Row("WideResNet28 (w=10)", "cifar100/wide_resnet28_10", "none", "36.54", "5.24", "18.89"),
        Row("WideResNet28 (w=10) + BAM", "cifar100/wide_resnet28_10", "bam", "36.57", "5.25", "18.56"),
        Row("ResNeXt29 8x64d", "cifar100/resnext29_8x64d", "none", "34.52", "4.99", "18.18"),
        Row("ResNeXt29 8x64d + BAM", "cifar100/resnext29_8x64d", "bam", "34.61", "5.00", "16.71"),
        Row("ResNeXt29 16x64d", "cifar100/resnext29_16x64d", "none", "68.25", "9.88", "17.25"),
        Row("ResNeXt29 16x64d + BAM", "cifar100/resnext29_16x64d", "bam", "68.34", "9.90", "16.39"),
        Row("DenseNet100-BC (k=12)", "cifar100/densenet100_bc", "none", "0.8", "0.29", "21.95"),
        Row("DenseNet100-BC (k=12) + BAM", "cifar100/densenet100_bc", "bam", "0.84", "0.30", "20.65"),
    ],
    "ImageNet-1K": [
        Row("ResNet18", "imagenet/resnet18", "none", "11.69", "1.81", "29.60 / 10.55"),
        Row("ResNet18 + BAM", "imagenet/resnet18", "bam", "11.71", "1.82", "28.88 / 10.01"),
        Row("ResNet50", "imagenet/resnet50", "none", "25.56", "3.86", "24.56 / 7.50"),
        Row("ResNet50 + BAM", "imagenet/resnet50", "bam", "25.92", "3.94", "24.02 / 7.18"),
        Row("ResNet101", "imagenet/resnet101", "none", "44.55", "7.57", "23.38 / 6.88"),
        Row("ResNet101 + BAM", "imagenet/resnet101", "bam", "44.91", "7.65", "22.44 / 6.29"),
        Row("WideResNet18 (w=1.5)", "imagenet/wide_resnet18_1.5", "none", "25.88", "3.87", "26.85 / 8.88"),
        Row("WideResNet18 (w=1.5) + BAM", "imagenet/wide_resnet18_1.5", "bam", "25.93", "3.88", "26.67 / 8.69"),
        Row("WideResNet18 (w=2.0)", "imagenet/wide_resnet18_2.0", "none", "45.62", "6.70", "25.63 / 8.20"),
        Row("WideResNet18 (w=2.0) + BAM", "imagenet/wide_resnet18_2.0", "bam", "45.71", "6.72", "25.00 / 7.81"),
        Row("ResNeXt50 (32x4d)", "imagenet/resnext50_32x4d", "none", "25.03", "3.77", "22.85 / 6.48"),
        Row("ResNeXt50 (32x4d) + BAM", "imagenet/resnext50_32x4d", "bam", "25.39", "3.85", "22.56 / 6.40"),
        Row("MobileNet", "imagenet/mobilenet", "none", "4.23", "0.569", "31.39 / 11.51"),
        Row("MobileNet + BAM", "imagenet/mobilenet", "bam", "4.32", "0.589", "30.58 / 10.90"),
        Row("MobileNet (alpha=0.7)", "imagenet/mobilenet_0.7", "none", "2.30", "0.283", "34.86 / 13.69"),
        Row("MobileNet (alpha=0.7) + BAM", "imagenet/mobilenet_0.7", "bam", "2.34", "0.292", "33.09 / 12.69"),
        Row("MobileNet (rho=192/224)", "imagenet/mobilenet_192", "none", "4.23", "0.439", "32.89 / 12.33"),
        Row("MobileNet (rho=192/224) + BAM", "imagenet/mobilenet_192", "bam", "4.32", "0.456", "31.56 / 11.60"),
        Row("SqueezeNet v1.1", "imagenet/squeezenet1_1", "none", "1.24", "0.290", "43.09 / 20.48"),
        Row("SqueezeNet v1.1 + BAM", "imagenet/squeezenet1_1", "bam", "1.26", "0.304", "41.83 / 19.58"),
    ],
    "Ablation: dilation (ResNet50 on CIFAR-100)": [
        Row("d=1", "cifar100/resnet50", "bam(dilation=1)", "24.07", "", "20.47"),
        Row("d=2", "cifar100/resnet50", "bam(dilation=2)", "24.07", "", "20.28"),
        Row("d=4", "cifar100/resnet50", "bam(dilation=4)", "24.07", "", "20.00"),
        Row("d=6", "cifar100/resnet50", "bam(dilation=6)", "24.07", "", "20.08"),
    ],
    "Ablation: reduction (ResNet50 on CIFAR-100)": [
        Row("baseline", "cifar100/resnet50", "none", "23.68", "", "21.49"),
        Row("r=4", "cifar100/resnet50", "bam(reduction=4)", "26.30", "", "20.46"),
        Row("r=8", "cifar100/resnet50", "bam(reduction=8)", "24.62", "", "20.56"),
        Row("r=16", "cifar100/resnet50", "bam(reduction=16)", "24.07", "", "20.00"),
        Row("r=32", "cifar100/resnet50", "bam(reduction=32)", "23.87", "", "21.24"),
    ],
    "Ablation: branches and how they are combined (ResNet50 on CIFAR-100)": [
        Row("baseline", "cifar100/resnet50", "none", result="21.49"),
        Row("channel branch", "cifar100/resnet50", "bam(branch=channel)", result="21.29"),
        Row("spatial branch", "cifar100/resnet50", "bam(branch=spatial)", result="21.24"),
        Row("both, maximum", "cifar100/resnet50", "bam(combine=max)", result="20.28"),
        Row("both, product", "cifar100/resnet50", "bam(combine=product)", result="20.21"),
        Row("both, sum", "cifar100/resnet50", "bam(combine=sum)", result="20.00"),
    ],
    "Ablation: one more block in the place of BAM (CIFAR-100)": [
        Row("ResNet50", "cifar100/resnet50", "none", "23.68", "", "21.49"),
        Row("ResNet50 + ResBlock", "cifar100/resnet50", "block", "25.14", "", "21.02"),
        Row("ResNet50 + BAM", "cifar100/resnet50", "bam", "24.07", "", "20.00"),
        Row("WideResNet28 (w=8)", "cifar100/wide_resnet28_8", "none", "23.4", "", "20.40"),
        Row("WideResNet28 (w=8) + WideResBlock", "cifar100/wide_resnet28_8", "block", "24.88", "", "19.51"),
        Row("WideResNet28 (w=8) + BAM", "cifar100/wide_resnet28_8", "bam", "23.56", "", "19.06"),
        Row("ResNeXt29 8x64d", "cifar100/resnext29_8x64d", "none", "34.4", "", "18.18"),
        Row("ResNeXt29 8x64d + ResNeXtBlock", "cifar100/resnext29_8x64d", "block", "37.3", "", "17.69"),
        Row("ResNeXt29 8x64d + BAM", "cifar100/resnext29_8x64d", "bam", "34.61", "", "16.71"),
    ],
    "BAM in every block (BAM-C) or at the bottlenecks (CIFAR-100)": [
        Row("ResNet50", "cifar100/resnet50", "none", "23.71", "1.22", "21.49"),
        Row("ResNet50 + BAM-C", "cifar100/resnet50", f"bam({BLOCKS})", "28.98", "1.37", "20.88"),
        Row("ResNet50 + BAM", "cifar100/resnet50", "bam", "24.07", "1.25", "20.00"),
        Row("PreResNet110", "cifar100/preresnet110", "none", "1.73", "0.245", "22.22"),
        Row("PreResNet110 + BAM-C", "cifar100/preresnet110", f"bam({BLOCKS})", "2.17", "0.275", "21.29"),
        Row("PreResNet110 + BAM", "cifar100/preresnet110", "bam", "1.73", "0.246", "21.96"),
        Row("WideResNet28 (w=8)", "cifar100/wide_resnet28_8", "none", "23.40", "3.36", "20.40"),
        Row("WideResNet28 (w=8) + BAM-C", "cifar100/wide_resnet28_8", f"bam({BLOCKS})", "23.78", "3.39", "20.06"),
        Row("WideResNet28 (w=8) + BAM", "cifar100/wide_resnet28_8", "bam", "23.42", "3.37", "19.06"),
        Row("ResNeXt29 8x64d", "cifar100/resnext29_8x64d", "none", "34.52", "4.99", "18.18"),
        Row("ResNeXt29 8x64d + BAM-C", "cifar100/resnext29_8x64d", f"bam({BLOCKS})", "35.60", "5.07", "18.15"),
        Row("ResNeXt29 8x64d + BAM", "cifar100/resnext29_8x64d", "bam", "34.61", "5.00", "16.71"),
    ],
    "BAM against SE (CIFAR-100)": [
        Row("ResNet50", "cifar100/resnet50", "none", "23.71", "1.22", "21.49"),
        Row("ResNet50 + SE", "cifar100/resnet50", f"se({BLOCKS})", "26.24", "1.23", "20.72"),
        Row("ResNet50 + BAM", "cifar100/resnet50", "bam", "24.07", "1.25", "20.00"),
        Row("PreResNet110", "cifar100/preresnet110", "none", "1.73", "0.245", "22.22"),
        Row("PreResNet110 + SE", "cifar100/preresnet110", f"se({BLOCKS})", "1.93", "0.245", "21.85"),
        Row("PreResNet110 + BAM", "cifar100/preresnet110", "bam", "1.73", "0.246", "21.96"),
        Row("WideResNet28 (w=8)", "cifar100/wide_resnet28_8", "none", "23.40", "3.36", "20.40"),
        Row("WideResNet28 (w=8) + SE", "cifar100/wide_resnet28_8", f"se({BLOCKS})", "23.58", "3.36", "19.85"),
        Row("WideResNet28 (w=8) + BAM", "cifar100/wide_resnet28_8", "bam", "23.42", "3.37", "19.06"),
        Row("ResNeXt29 16x64d", "cifar100/resnext29_16x64d", "none", "68.25", "9.88", "17.25"),
        Row("ResNeXt29 16x64d + SE", "cifar100/resnext29_16x64d", f"se({BLOCKS})", "68.81", "9.88", "16.52"),
        Row("ResNeXt29 16x64d + BAM", "cifar100/resnext29_16x64d", "bam", "68.34", "9.9", "16.39"),
    ],
    "VOC 2007 (detection)": [
        Row("VGG16, SSD", "voc2007/ssd300_vgg16", "none", "26.5", "", "77.8"),
        Row("VGG16, StairNet", "voc2007/stairnet300_vgg16", "none", "32.0", "", "78.9"),
        Row("VGG16, StairNet + BAM", "voc2007/stairnet300_vgg16", "bam", "32.1", "", "79.3"),
        Row("MobileNet, SSD", "voc2007/ssd300_mobilenet", "none", "5.81", "", "68.1"),
        Row("MobileNet, StairNet", "voc2007/stairnet300_mobilenet", "none", "5.98", "", "70.1"),
        Row("MobileNet, StairNet + BAM", "voc2007/stairnet300_mobilenet", "bam", "6.00", "", "70.6"),
    ],
    "MS COCO (detection)": [
        Row("ResNet101", "coco/fasterrcnn_resnet101_fpn", "none", result="29.1 / 48.4 / 30.7"),
        Row("ResNet101 + BAM", "coco/fasterrcnn_resnet101_fpn", "bam", result="30.4 / 50.2 / 32.5"),
    ],
}  # fmt: skip

#: Table -> heading of the results, where they are not top-1 (and top-5) errors.
RESULTS = {"VOC 2007 (detection)": "mAP %, printed", "MS COCO (detection)": "AP / AP50 / AP75 %, printed"}

_MORE_NORM = "with one more affine BatchNorm over C in each module it would be {}"
_WEIGHTS = "weights alone, without the offsets of BatchNorms and of the classifier: {}"

#: (recipe, variant, printed digits) -> why this package counts something else.
NOTES: dict[tuple[str, str, str], str] = {
    ("cifar100/resnet101", "none", "2.44"): "unexplained",
    ("cifar100/preresnet110", "bam", "1.733"): _MORE_NORM.format("1.7328"),
    ("cifar100/wide_resnet28_8", "bam", "3.37"): "unexplained",
    ("cifar100/resnext29_8x64d", "none", "4.99"): "unexplained",
    ("cifar100/resnext29_16x64d", "bam", "68.34"): _MORE_NORM.format("68.3364"),
    ("imagenet/mobilenet_192", "none", "0.439"): "unexplained: no side from 190 to 211 pixels gives it",
    ("imagenet/mobilenet_192", "bam", "0.456"): "unexplained: no side from 190 to 211 pixels gives it",
    ("imagenet/squeezenet1_1", "none", "0.290"): "0.2870 without the classifier, at maps of 112, 56, 28 and 14",
    ("imagenet/squeezenet1_1", "bam", "0.304"): "0.3007 without the classifier, at maps of 112, 56, 28 and 14",
    ("cifar100/resnet50", "none", "23.68"): _WEIGHTS.format("23,678,592"),
    ("cifar100/resnet50", "bam(reduction=32)", "23.87"): _MORE_NORM.format("23.8682"),
    ("cifar100/resnet50", "block", "25.14"): _WEIGHTS.format("25,143,552"),
    (
        "cifar100/wide_resnet28_8",
        "bam",
        "23.56",
    ): "reduction 4 gives 23,556,246; other tables print 23.42 for the same error",
    ("cifar100/resnext29_8x64d", "none", "34.4"): "for 10 classes: 34,426,698",
    ("cifar100/resnet50", f"bam({BLOCKS})", "28.98"): _MORE_NORM.format("28.9802"),
    ("cifar100/preresnet110", f"bam({BLOCKS})", "2.17"): _MORE_NORM.format("2.1726"),
    ("cifar100/wide_resnet28_8", f"bam({BLOCKS})", "23.78"): _MORE_NORM.format("23.7767"),
    ("cifar100/resnext29_16x64d", f"se({BLOCKS})", "68.81"): "unexplained",
    (
        "voc2007/ssd300_vgg16",
        "none",
        "26.5",
    ): "with six boxes per place in the first map it would be 26.52",
    ("voc2007/stairnet300_vgg16", "none", "32.0"): "unexplained; StairNet's layers are our reading of its paper",
    ("voc2007/stairnet300_vgg16", "bam", "32.1"): "as in the row above; the six modules add 0.107",
}
