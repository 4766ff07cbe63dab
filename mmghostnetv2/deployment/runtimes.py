"""Runtimes that run a network on the CPU: their files and how those are run."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .to_onnx import to_onnx

# one batch of images to the outputs, a flat list
Session = Callable[[np.ndarray], list[np.ndarray]]

# of an output's largest value; folded norms and other kernels round otherwise
TOLERANCE = 1e-4


def tensors(outputs: Tensor | Sequence) -> list[Tensor]:
    """List the tensors in a network's outputs: tensors, or sequences of them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in tensors(output)]


def flatten(outputs: Tensor | Sequence) -> list[np.ndarray]:
    """List what :func:`tensors` does as arrays."""
    return [tensor.numpy() for tensor in tensors(outputs)]


def largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference as a share of ``theirs``'s largest value."""
    error, largest = (np.abs(a).max(initial=0) for a in (ours - theirs, theirs))
    return float(error / largest) if error else 0.0


def require_equal(
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    tolerance: float,
    runtime: str,
) -> None:
    """Raise unless a runtime's outputs are torch's.

    Args:
        outputs (Sequence[np.ndarray]): Those of the runtime.
        expected (Sequence[np.ndarray]): Those of torch.
        tolerance (float): Largest difference, relative to an output's largest value.
        runtime (str): The runtime's name, for the message.

    Raises:
        RuntimeError: Number, shape or values differ, or are not finite.
    """
    shapes, expected_shapes = ([a.shape for a in o] for o in (outputs, expected))
    if shapes != expected_shapes:
        raise RuntimeError(
            f'{runtime} returns outputs of the shapes {shapes}, torch {expected_shapes}'
        )
    for i, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        error = largest_error(ours, theirs)
        if not error <= tolerance:  # so that NaN is an error, too
            raise RuntimeError(
                f'output {i} of {runtime} differs from that of torch by up to '
                f'{error:.1e} of its largest value, more than {tolerance:.1e}'
            )


def _network_itself(network: nn.Module, x: Tensor, path: Path) -> nn.Module:
    return network


def _open_torch(network: nn.Module, threads: int) -> Session:
    @torch.inference_mode()
    def run(x: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(threads)
        return flatten(network(torch.from_numpy(x)))

    return run


def _open_compiled(network: nn.Module, threads: int) -> Session:
    """Compile with weights as constants, in channels_last, at the first call."""
    network = deepcopy(network).to(memory_format=torch.channels_last)
    compiled = torch.compile(
        network, fullgraph=True, dynamic=False, options={'freezing': True}
    )

    @torch.no_grad()  # which freezing takes; inference mode it does not know
    def run(x: np.ndarray) -> list[np.ndarray]:
        torch.set_num_threads(threads)  # also of what is compiled
        image = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        return flatten(compiled(image))

    return run


def _to_onnx(network: nn.Module, x: Tensor, path: Path) -> Path:
    path = path.with_name(f'{path.name}.onnx')
    to_onnx(network, x.shape, path)
    return path


def _open_onnx(path: Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads wait for the next operator in a busy loop, as they do where a network is
    # deployed, but not on after the last one, when another network has its turn.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def onnx_to_openvino(source: Path, path: Path) -> None:
    """Write the ONNX file ``source`` as ``path``, NAME.xml, and NAME.bin: float32."""
    import openvino

    model = openvino.Core().read_model(source)
    openvino.save_model(model, path, compress_to_fp16=False)


def _to_openvino(network: nn.Module, x: Tensor, path: Path) -> Path:
    path = path.with_name(f'{path.name}.xml')
    with tempfile.TemporaryDirectory() as folder:
        onnx_to_openvino(_to_onnx(network, x, Path(folder, 'model')), path)
    return path


def _open_openvino(path: Path, threads: int) -> Session:
    import openvino

    options = {
        'INFERENCE_NUM_THREADS': threads,
        'NUM_STREAMS': 1,
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_PRECISION_HINT': 'f32',  # bfloat16 is the default where CPUs have it
        'ENABLE_CPU_PINNING': False,  # would hold what else runs in this process, too
    }
    model = openvino.Core().compile_model(path, 'CPU', options)
    return lambda x: [array.copy() for array in model([x]).values()]


def onnx_to_ncnn(source: Path, path: Path, half: bool = False) -> None:
    """Write the ONNX file ``source`` as ``path``, NAME.param, and NAME.bin.

    Args:
        source (Path): ONNX file of fixed sizes and a batch of one.
        path (Path): File of the graph; that of the weights gets its name.
        half (bool): Store weights as float16.

    Raises:
        RuntimeError: ncnn lacks an operator.
    """
    from pnnx import EXEC_PATH

    path = path.absolute()
    # it leaves more than a dozen files of other formats beside its input
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, 'model.onnx')
        model.symlink_to(source.resolve())
        targets = f'ncnnparam={path}', f'ncnnbin={path.with_suffix(".bin")}'
        command = [EXEC_PATH, model, f'fp16={int(half)}', *targets]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition('\n')[2]
        raise RuntimeError(f'pnnx cannot convert {source}: {last}')


def _to_ncnn(network: nn.Module, x: Tensor, path: Path) -> Path:
    # not NAME.bin, which is OpenVINO's
    path = path.with_name(f'{path.name}.ncnn.param')
    with tempfile.TemporaryDirectory() as folder:
        onnx_to_ncnn(_to_onnx(network, x, Path(folder, 'model')), path)
    return path


def _open_ncnn(path: Path, threads: int) -> Session:
    """Compute in float32."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in 'fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage':
        setattr(net.opt, f'use_{name}', False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix('.bin'))):
        raise RuntimeError(
            f'ncnn cannot read {path.name}, or lacks one of its operators'
        )
    names = sorted(net.output_names(), key=lambda name: int(name.removeprefix('out')))

    def run(x: np.ndarray) -> list[np.ndarray]:
        if len(x) > 1:
            raise ValueError(f'ncnn takes one image at a time, got {len(x)}')
        # it reads an array in the order of memory, and keeps none alive
        image = np.ascontiguousarray(x[0])
        with net.create_extractor() as extractor:
            extractor.input('in0', ncnn.Mat(image).clone())
            found = [extractor.extract(name) for name in names]
            if any(status for status, _ in found):
                raise RuntimeError(f'ncnn cannot run {path.name}')
            return [np.array(mat)[None] for _, mat in found]

    return run


def litert_python() -> Path:
    """Return the Python of the environment that ``make litert`` builds.

    Raises:
        ImportError: It is not there.
    """
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    root = os.environ.get('MMGHOSTNETV2_CACHE') or Path(caches, 'mmghostnetv2')
    folder = Path(root, 'litert').expanduser().absolute()
    python = folder / 'bin' / 'python'
    if not python.is_file():
        raise ImportError(
            f'converting to LiteRT takes an environment of its own, {folder}: '
            'make litert builds it'
        )
    return python


def _run_litert_worker(*arguments: object) -> None:
    """Run litert_worker.py in the environment for it; raise what it failed by."""
    worker = Path(__file__).with_name('litert_worker.py')
    command = [litert_python(), worker, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition('\n')[2]
        raise RuntimeError(f'LiteRT cannot {arguments[0]} the network: {last}')


def to_litert(network: nn.Module, images: Tensor, path: Path) -> None:
    """Write a network as ``path``, NAME.tflite.

    Args:
        network (nn.Module): Takes one batch of images.
        images (Tensor): Batch of the shape that it shall take, (N, C, H, W).
        path (Path): File to write.

    Raises:
        ImportError: There is no environment for the conversion.
        RuntimeError: litert-torch cannot convert the network.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        program = Path(folder, 'program.pt2')
        torch.export.save(torch.export.export(network, (images,)), program)
        _run_litert_worker('convert', program, path)


def quantize_litert(path: Path, images: Tensor) -> None:
    """Quantise a file of :func:`to_litert` to integers of 8 bits, in its place.

    Args:
        path (Path): The file.
        images (Tensor): Batches that tell the ranges of values, (number, N, C, H, W).

    Raises:
        ImportError: There is no environment for that.
        RuntimeError: The quantiser fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        batches = Path(folder, 'images.npy')
        np.save(batches, images.numpy())
        _run_litert_worker('quantize', path, batches)


def _to_litert(network: nn.Module, x: Tensor, path: Path) -> Path:
    path = path.with_name(f'{path.name}.tflite')
    to_litert(network, x, path)
    return path


def _open_litert(path: Path, threads: int) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]['index']
    targets = [details['index'] for details in interpreter.get_output_details()]

    def run(x: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return [interpreter.get_tensor(target) for target in targets]

    return run


class Runtime(NamedTuple):
    """How a network gets to run.

    ``convert(network, x, path)`` makes a model of a network in eval mode for images as
    ``x``: a file of the name ``path`` and the format's suffix, whose path it returns,
    or, where there is none, the network. ``open(model, threads)`` returns a function
    of a batch of images. ``modules`` are imported beside torch.
    """

    convert: Callable[[nn.Module, Tensor, Path], Path | nn.Module]
    open: Callable[[Path | nn.Module, int], Session]
    modules: tuple[str, ...] = ()


RUNTIMES = {
    'onnxruntime': Runtime(_to_onnx, _open_onnx, ('onnx', 'onnxruntime')),
    'torch': Runtime(_network_itself, _open_torch),
    'compiled': Runtime(_network_itself, _open_compiled),
    'openvino': Runtime(_to_openvino, _open_openvino, ('onnx', 'openvino')),
    'litert': Runtime(_to_litert, _open_litert, ('ai_edge_litert',)),
    'ncnn': Runtime(_to_ncnn, _open_ncnn, ('onnx', 'pnnx', 'ncnn')),
}


def check_runtime(runtime: str) -> None:
    """Check that a runtime is known and installed.

    Args:
        runtime (str): A key of ``RUNTIMES``.

    Raises:
        ValueError: It is none of these.
        ImportError: What it takes is missing.
    """
    if runtime not in RUNTIMES:
        allowed = ', '.join(map(repr, RUNTIMES))
        raise ValueError(f'runtime must be one of {allowed}, got {runtime!r}')
    missing = [name for name in RUNTIMES[runtime].modules if not find_spec(name)]
    if missing:
        packages = ' '.join(name.replace('_', '-') for name in missing)
        raise ImportError(
            f'runtime {runtime!r} is not installed: pip install {packages}'
        )
    if runtime == 'litert':
        litert_python()
