"""ncnn, to which pnnx converts ONNX graphs."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from .base import Runtime, Session
from .onnxruntime import write as write_onnx


def _write(network: nn.Module, images: Tensor, path: Path, half: bool = False) -> None:
    """Write NAME.param and NAME.bin, whose weights are float16 if ``half``."""
    from pnnx import EXEC_PATH

    path = path.absolute()
    # pnnx writes a dozen files of other formats beside its input.
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(network, images, Path(folder, 'model.onnx'))
        targets = f'ncnnparam={path}', f'ncnnbin={path.with_suffix(".bin")}'
        command = [EXEC_PATH, 'model.onnx', f'fp16={int(half)}', *targets]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition('\n')[2]
        raise RuntimeError(f'pnnx cannot convert the network to ncnn: {last}')


def _open(path: Path, threads: int) -> Session:
    """Open a file to be computed in float32."""
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
        # ncnn ignores strides and does not keep the array alive.
        image = np.ascontiguousarray(x[0])
        with net.create_extractor() as extractor:
            extractor.input('in0', ncnn.Mat(image).clone())
            found = [extractor.extract(name) for name in names]
            if any(status for status, _ in found):
                raise RuntimeError(f'ncnn cannot run {path.name}')
            return [np.array(mat)[None] for _, mat in found]

    return run


NCNN = Runtime(
    'ncnn',
    'ncnn',
    _open,
    _write,
    format='ncnn',
    suffix='.param',
    companions=('.bin',),
    modules=('onnx', 'onnxscript', 'pnnx', 'ncnn'),
    suppresses=False,
    compress={'half': _write},
)
