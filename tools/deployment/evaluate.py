"""Test exported classifiers and detectors with the data and the metric of a config.

The config's own test pipeline, data preprocessor and evaluator are used; only the
network is the file's. All files are also timed, in turn, on one image: a time is a
median, and a ratio, to the first file, the median of those within a round.

Example:
    python tools/deployment/evaluate.py configs/digits/ghostnetv2_100_digits.py \
        digits.onnx digits_int8.onnx
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmghostnetv2.analysis import paired_ratios, quartiles, time_interleaved
from mmghostnetv2.deployment.metadata import metadata_path
from mmghostnetv2.deployment.runtimes import RUNTIMES

BY_SUFFIX = {'.onnx': 'onnxruntime', '.xml': 'openvino', '.tflite': 'litert'}
BY_SUFFIX['.param'] = 'ncnn'


def predict(model, session, meta, data):
    """Do a model's test step by an exported network, image by image."""
    data = model.data_preprocessor(data, False)
    height, width = meta['input']['shape'][2:]
    for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
        # on the right and below, as the data preprocessors do
        pad = 0, width - image.shape[-1], 0, height - image.shape[-2]
        if min(pad) < 0 or (any(pad) and meta['task'] == 'classification'):
            raise ValueError(
                f'the pipeline makes images of {tuple(image.shape[-2:])} pixels, the '
                f'file takes {(height, width)}'
            )
        image = F.pad(image, pad)
        if meta['input']['preprocess']:
            mean, std = (torch.tensor(meta['input'][x]) for x in ('mean', 'std'))
            image = image * std[:, None, None] + mean[:, None, None]
            image = image if meta['input']['rgb'] else image.flip(0)
        outputs = [torch.from_numpy(x)[0] for x in session(image[None].numpy())]
        if meta['task'] == 'classification':
            (scores,) = outputs
            sample.set_pred_score(scores).set_pred_label(scores.argmax())
        else:
            dets, labels = outputs
            found = labels >= 0
            factor = dets.new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = InstanceData(
                bboxes=dets[found, :4] / factor,
                scores=dets[found, 4],
                labels=labels[found].long(),
            )
    return data['data_samples']


def evaluate(config, session, meta):
    """Return the metrics of an exported network by name."""
    runner = Runner.from_cfg(config)
    runner.model.test_step = partial(predict, runner.model, session, meta)
    return runner.test()


def open_file(path, threads, openvino):
    """Open an exported file; return its session and its description."""
    sidecar = metadata_path(path)
    if path.suffix not in BY_SUFFIX:
        known = ', '.join(BY_SUFFIX)
        raise ValueError(f'{path} is of an unknown format; a model ends in {known}')
    for file in (path, sidecar):
        if not file.is_file():
            raise FileNotFoundError(f'no such file: {file}')
    meta = json.loads(sidecar.read_text())
    if meta['output'] != 'predictions' or meta['task'] == 'segmentation':
        raise ValueError(f'{path} returns no scores of classes and no suppressed boxes')
    runtime = BY_SUFFIX[path.suffix]
    if openvino and runtime == 'onnxruntime':
        runtime = 'openvino'
    return RUNTIMES[runtime].open(path, threads), meta


def tabulate(metrics, seconds):
    """Write what was found as lines of Markdown."""
    first = next(iter(seconds))
    names = list(metrics[first])
    ratios = paired_ratios(seconds, first)
    lines = [f'| file | {" | ".join(names)} | ms | ratio |']
    lines.append('| --- ' * (len(names) + 3) + '|')
    for file, values in metrics.items():
        cells = [f'{values.get(name, 0):.3f}' for name in names]
        cells.append(f'{1e3 * quartiles(seconds[file]).median:.2f}')
        cells.append(f'{ratios[file].median:.3f}')
        lines.append(f'| {file} | {" | ".join(cells)} |')
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file')
    add('models', metavar='MODEL', type=Path, nargs='+', help='exported files')
    add('--openvino', action='store_true', help='run .onnx files in OpenVINO')
    add('--threads', metavar='N', type=int, default=1, help='threads (default: 1)')
    add('--rounds', metavar='N', type=int, default=50, help='timed runs (default: 50)')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config',
    )
    args = parser.parse_args(argv)
    if min(args.threads, args.rounds) < 1:
        parser.error('--threads and --rounds must be at least 1')
    if not Path(args.config).is_file():
        parser.error(f'no such config: {args.config}')
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    config.log_level = 'WARNING'
    metrics, runners = {}, {}
    try:
        # one folder, since all runners share their visualizer
        with tempfile.TemporaryDirectory() as config.work_dir:
            for path in args.models:
                session, meta = open_file(path, args.threads, args.openvino)
                metrics[str(path)] = evaluate(config, session, meta)
                images = torch.rand(meta['input']['shape']).numpy()
                runners[str(path)] = partial(session, images)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    seconds = time_interleaved(runners, args.rounds)
    print('\n'.join(tabulate(metrics, seconds)))


if __name__ == '__main__':
    main()
