"""Strip a training's checkpoint to what inference and fine-tuning need.

What stays are the weights and ``meta`` (config, classes, versions). Where the training
kept a moving average (EMAHook), mmengine saves that as the weights, and the raw ones
beside it; the latter go, with optimizer, schedules and logs.

The file's name gets the first eight digits of its SHA-256.

Example:
    python tools/model_converters/publish_model.py work_dirs/a/epoch_30.pth a.pth
"""

import argparse
import hashlib
import io
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

import mmghostnetv2  # noqa: F401  lets torch read what mmengine saves, weights-only


def publish(src: str, dst: Path) -> Path:
    """Write the stripped checkpoint beside ``dst``; return where.

    Args:
        src (str): Checkpoint of an mmengine training.
        dst (Path): ``folder/name.pth`` becomes ``folder/name-<8 hex digits>.pth``.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is not one of a training.
    """
    checkpoint = CheckpointLoader.load_checkpoint(src, map_location='cpu')
    lacking = [key for key in ('meta', 'state_dict') if key not in checkpoint]
    if lacking:
        raise ValueError(
            f'{src} is no checkpoint of an mmengine training: it has no {lacking[0]!r}'
        )
    buffer = io.BytesIO()  # a file's name would be part of its content
    torch.save({key: checkpoint[key] for key in ('meta', 'state_dict')}, buffer)
    content = buffer.getvalue()
    digits = hashlib.sha256(content).hexdigest()[:8]
    path = dst.with_name(f'{dst.stem}-{digits}{dst.suffix}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', metavar='IN', help='checkpoint of a training')
    parser.add_argument('dst', metavar='OUT', type=Path, help='name of the new file')
    args = parser.parse_args()
    try:
        path = publish(args.src, args.dst)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{type(error).__name__}: {error}') from error
    print(f'wrote {path}')


if __name__ == '__main__':
    main()
