"""ONNX Runtime on models built in memory; inputs and outputs are bound once: nothing is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.peers import Call

Inputs = dict[str, NDArray[Any]]
OPSET = 20


def versions() -> dict[str, str]:
    return {"onnxruntime": onnxruntime.__version__}


def _call(nodes: list[Any], inputs: Inputs, shape: tuple[int, ...], threads: int) -> Call:
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "workload", tensors, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle workers must not disturb the other peers' blocks
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result = np.empty(shape, np.float32)
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("out", "cpu", 0, np.float32, shape, result.ctypes.data)

    def run() -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return result

    return Call(run, lambda: run().copy())


def _matmul(inputs: Inputs, threads: int) -> Call:
    shape = (inputs["a"].shape[0], inputs["b"].shape[1])
    return _call([helper.make_node("MatMul", ["a", "b"], ["out"])], inputs, shape, threads)


def _softmax(inputs: Inputs, threads: int) -> Call:
    node = helper.make_node("Softmax", ["x"], ["out"], axis=-1)
    return _call([node], inputs, inputs["x"].shape, threads)


def _layer_norm(inputs: Inputs, threads: int) -> Call:
    names = ["x", "weight", "bias"]
    node = helper.make_node("LayerNormalization", names, ["out"], axis=-1, epsilon=1e-5)
    return _call([node], inputs, inputs["x"].shape, threads)


def _chain(inputs: Inputs, threads: int) -> Call:
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["xa"]),
        helper.make_node("Add", ["xa", "b"], ["xab"]),
        helper.make_node("Tanh", ["xab"], ["t"]),
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["t", "s"], ["ts"]),
        helper.make_node("Gelu", ["x"], ["g"]),
        helper.make_node("Add", ["ts", "g"], ["out"]),
    ]
    return _call(nodes, inputs, inputs["x"].shape, threads)


def _conv(inputs: Inputs, threads: int) -> Call:
    n, _, height, width = inputs["x"].shape
    shape = (n, inputs["weight"].shape[0], height, width)
    node = helper.make_node("Conv", ["x", "weight"], ["out"], pads=[1, 1, 1, 1])
    return _call([node], inputs, shape, threads)


BUILDERS = {
    "matmul": _matmul,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "chain": _chain,
    "conv": _conv,
}
