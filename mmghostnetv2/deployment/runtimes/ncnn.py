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


def _require_f16(path: Path) -> None:
    """Raise a ValueError if ncnn would compute a whole file in float32.

    ncnn computes in float16 only on Arm CPUs that have such arithmetic (asimdhp). On
    x86 CPUs with F16C it rounds the weights of linear layers to float16, and ignores
    the option in convolutions. Its Python module tells of AVX2, and no CPU has AVX2
    without F16C.
    """
    import ncnn

    has_f16c = bool(ncnn.cpu_support_x86_avx2())
    has_linear = 'InnerProduct' in path.read_text()
    if not (ncnn.cpu_support_arm_asimdhp() or (has_f16c and has_linear)):
        raise ValueError(
            f'ncnn cannot compute {path.name} in f16 here: convolutions need an Arm '
            'CPU with asimdhp, linear layers also an x86 CPU with F16C. This CPU has '
            f'{"F16C" if has_f16c else "neither"}, and the file has '
            f'{"linear layers" if has_linear else "no linear layer"}'
        )


def _open(path: Path, threads: int, precision: str = 'f32') -> Session:
    """Open a file to be computed in a precision. ncnn emulates bf16 where it must.

    Raises:
        RuntimeError: ncnn cannot read the file.
        ValueError: The precision is f16, which the CPU does not have for this file.
    """
    import ncnn

    if precision == 'f16':
        _require_f16(path)
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_bf16_storage = precision == 'bf16'
    for name in 'packed', 'storage', 'arithmetic':
        setattr(net.opt, f'use_fp16_{name}', precision == 'f16')
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
    precisions=('f32', 'bf16', 'f16'),
    compress={'half': _write},
)
