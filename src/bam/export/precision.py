"""Converting ONNX files to lower precision."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bam.export.reasons import onnxruntime_refusals


def to_fp16(content: bytes) -> bytes:
    """The content of an ONNX file with half-precision weights and arithmetic; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # Weights below 6e-8 become 1e-7, far below the rounding error of the others; the comparison sees the effect.
        warnings.filterwarnings("ignore", "the float32 number", UserWarning)
        model = convert_float_to_float16(onnx.load_model_from_string(content), keep_io_types=True)
    return model.SerializeToString()


def to_int8(content: bytes, batches: Sequence[Tensor]) -> bytes:
    """The content of an ONNX file with 8-bit integers (QDQ), with one scale per channel of the weights.

    The ranges of the features are the smallest and largest values for `batches`, each float32 (N, C, H, W). Linear
    layers, the attention's included, and normalisations that no convolution could absorb stay float32: they cost next
    to nothing, and linear layers in 8 bits make the difference up to ten times as large. In onnxruntime on x86,
    unsigned features are several times as fast as signed ones. Weights take seven of the eight bits: on x86 processors
    without VNNI, onnxruntime adds products of eight bits in sixteen, which overflow.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, object] | None:
            images = next(self.batches, None)
            return None if images is None else {"image": images.cpu().numpy()}

    with tempfile.TemporaryDirectory() as folder, onnxruntime_refusals():
        plain, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "int8"))
        plain.write_bytes(content)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        float_nodes = [node.name for node in graph.node if node.op_type in ("Gemm", "MatMul", "BatchNormalization")]
        quantize_static(
            prepared,
            quantized,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            reduce_range=True,
            nodes_to_exclude=float_nodes,
        )
        return quantized.read_bytes()
