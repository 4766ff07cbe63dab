"""Strip a training's checkpoint to what inference and fine-tuning need.

Example:
    python tools/model_converters/publish_model.py work_dirs/a/epoch_30.pth --out a.pth

The tool keeps the weights and ``meta`` (config, classes, versions) and removes
optimizer, schedules and logs. If the training used EMAHook, mmengine has saved the
averaged weights as the weights, and the raw weights, too; the raw weights are removed.

The first eight digits of the file's SHA-256 are added to its name: a-0123abcd.pth.
"""

import hashlib
import io

import torch
from mmengine.runner import CheckpointLoader

from mmghostnetv2.arguments import add_out, make_parser, run_tool
from mmghostnetv2.output import require_free, written


def strip(src: str) -> bytes:
    """Return the content of the stripped checkpoint.

    Args:
        src (str): Checkpoint of an mmengine training.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: It cannot be read.
        ValueError: It is not a checkpoint of an mmengine training.
    """
    checkpoint = CheckpointLoader.load_checkpoint(src, 'cpu', logger='silent')
    for key in ('meta', 'state_dict'):
        if key not in checkpoint:
            raise ValueError(
                f'{src} is not a checkpoint of an mmengine training: it has no {key!r}'
            )
    # torch.save writes the file's name into the file, which would change the SHA-256.
    buffer = io.BytesIO()
    torch.save({key: checkpoint[key] for key in ('meta', 'state_dict')}, buffer)
    return buffer.getvalue()


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('src', metavar='SRC', help='checkpoint of a training')
    add_out(parser, 'name of the new file', required=True)
    args = parser.parse_args(argv)
    require_free([args.out], args.force)
    content = strip(args.src)
    digits = hashlib.sha256(content).hexdigest()[:8]
    out = args.out.with_stem(f'{args.out.stem}-{digits}')
    require_free([out], args.force)
    with written(out) as path:
        path.write_bytes(content)
    print(f'wrote {out}')


if __name__ == '__main__':
    run_tool(main)
