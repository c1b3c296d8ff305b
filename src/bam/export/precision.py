"""Convert ONNX files to lower precision."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bam.export.reasons import onnxruntime_refusals


def to_fp16(content: bytes) -> bytes:
    """Convert an ONNX file's content to half-precision weights and arithmetic; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        # Weights below 6e-8 become 1e-7, far below the rounding error of the others; the comparison covers the effect.
        warnings.filterwarnings("ignore", "the float32 number", UserWarning)
        model = convert_float_to_float16(onnx.load_model_from_string(content), keep_io_types=True)
    return model.SerializeToString()


def to_int8(content: bytes, batches: Sequence[Tensor]) -> bytes:
    """Quantise an ONNX file's content to 8-bit integers (QDQ), with one scale per weight channel.

    Feature ranges are the smallest and largest values over `batches`, each float32 (N, C, H, W). Linear layers
    (including the attention's) and normalisations that no convolution absorbs stay float32: they cost almost nothing,
    and 8-bit linear layers make the difference up to ten times larger. In onnxruntime on x86, unsigned features are
    several times faster than signed ones. Weights use seven of the eight bits: on x86 processors without VNNI,
    onnxruntime accumulates 8-bit products in 16 bits, which overflow.
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
