"""Test exported classifiers and detectors with the data and the metric of a config.

The config's own test pipeline, data preprocessor and evaluator are used; only the
network is the file's. All files are also timed, in turn, on one image: a time is a
median, and a ratio, to the first file, the median of those within a round.

Example:
    python tools/deployment/evaluate.py configs/digits/ghostnetv2_100_digits.py \
        digits.onnx digits_int8.onnx
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from run import boxes_in_picture, one_line, read_description  # the neighbour

from mmghostnetv2.analysis import paired_ratios, quartiles, time_interleaved
from mmghostnetv2.apis import read_config
from mmghostnetv2.deployment.networks import find_task
from mmghostnetv2.deployment.runtimes import RUNTIMES

BY_SUFFIX = {'.onnx': 'onnxruntime', '.xml': 'openvino', '.tflite': 'litert'}
BY_SUFFIX['.param'] = 'ncnn'


def pad_to_size(image, meta):
    """Pad an image (3, H, W) to the size that a file takes.

    It grows on the right and below, as the data preprocessors do it.

    Raises:
        ValueError: It is larger, or has another size where a classifier takes it.
    """
    height, width = meta['input']['shape'][2:]
    pad = 0, width - image.shape[-1], 0, height - image.shape[-2]
    if min(pad) < 0 or (any(pad) and meta['task'] == 'classification'):
        raise ValueError(
            f'the pipeline makes images of {tuple(image.shape[-2:])} pixels, the '
            f'file takes {(height, width)}'
        )
    return F.pad(image, pad)


def predict(model, session, meta, data):
    """Do a model's test step by an exported network, image by image."""
    data = model.data_preprocessor(data, False)
    for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
        if not meta['input']['dynamic']:
            image = pad_to_size(image, meta)
        if meta['input']['preprocess']:
            mean, std = (torch.tensor(meta['input'][x]) for x in ('mean', 'std'))
            image = image * std[:, None, None] + mean[:, None, None]
            image = image if meta['input']['rgb'] else image.flip(0)
        outputs = [x[0] for x in session(image[None].numpy())]
        if meta['task'] == 'classification':
            scores = torch.from_numpy(outputs[0])
            sample.set_pred_score(scores).set_pred_label(scores.argmax())
        else:
            dets, labels = outputs
            dets, labels = dets[labels >= 0], labels[labels >= 0]
            size = sample.ori_shape[1::-1]
            # without what the pipeline pads
            factors = sample.get('scale_factor', (1.0, 1.0))
            inside = [round(x * f) for x, f in zip(size, factors, strict=True)]
            boxes = boxes_in_picture(dets[:, :4], size, inside, meta['clip'])
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(boxes).float(),
                scores=torch.from_numpy(dets[:, 4]),
                labels=torch.from_numpy(labels).long(),
            )
    return data['data_samples']


def evaluate(config, session, meta):
    """Return the metrics of an exported network by name.

    Raises:
        ValueError: The config has nothing to test with, or is of another task or of
            another number of classes than the network.
    """
    if not config.get('model'):
        raise ValueError('the config has no model')
    runner = Runner.from_cfg(config)
    task = find_task(runner.model)
    if task != meta['task']:
        raise ValueError(f'the file is of {meta["task"]}, the config of {task}')
    if runner.test_loop is None:
        raise ValueError('the config has no data and no metric to test with')
    known = meta['classes'], runner.test_loop.dataloader.dataset.metainfo.get('classes')
    ours, theirs = (len(classes or ()) for classes in known)
    if ours and theirs and ours != theirs:
        raise ValueError(f'the file has {ours} classes, the data {theirs}')
    # the runtimes' outputs are there, too
    runner.model.to('cpu')
    runner.model.test_step = partial(predict, runner.model, session, meta)
    return runner.test()


def open_file(path, threads, openvino):
    """Open an exported file; return its session and its description."""
    if path.suffix not in BY_SUFFIX:
        known = ', '.join(BY_SUFFIX)
        raise ValueError(f'{path} is of an unknown format; a model ends in {known}')
    meta = read_description(path)
    if meta['output'] != 'predictions' or meta['task'] == 'segmentation':
        raise ValueError(f'{path} returns no scores of classes and no suppressed boxes')
    runtime = BY_SUFFIX[path.suffix]
    if openvino and runtime == 'onnxruntime':
        runtime = 'openvino'
    return RUNTIMES[runtime].open(path, threads), meta


def tabulate(metrics, seconds):
    """Write what was found as lines of Markdown."""
    first = next(iter(seconds))
    # a metric is left out where nothing is found
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    ratios = paired_ratios(seconds, first)
    lines = [f'| file | {" | ".join(names)} | ms | ratio |']
    lines.append('| --- ' * (len(names) + 3) + '|')
    for file, values in metrics.items():
        cells = [f'{values[x]:.3f}' if x in values else 'none' for x in names]
        cells.append(f'{1e3 * quartiles(seconds[file]).median:.2f}')
        cells.append(f'{ratios[file].median:.3f}')
        lines.append(f'| {file} | {" | ".join(cells)} |')
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', metavar='CONFIG', help='config file, or the name of one of ours')
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
    metrics, runners = {}, {}
    source = args.config
    try:
        config = read_config(args.config)
        config.merge_from_dict(args.cfg_options)
        config.log_level = 'WARNING'
        # nothing is drawn; the config's own would outlive the folder
        config.visualizer = dict(type='Visualizer', name='evaluate')
        with tempfile.TemporaryDirectory() as config.work_dir:
            for path in args.models:
                source = path
                session, meta = open_file(path, args.threads, args.openvino)
                source = f'{path} by {args.config}'
                metrics[str(path)] = evaluate(config, session, meta)
                images = torch.rand(meta['input']['shape']).numpy()
                runners[str(path)] = partial(session, images)
    except Exception as error:  # runtimes and configs have types of their own
        sys.exit(f'{source}: {one_line(error)}')
    seconds = time_interleaved(runners, args.rounds)
    print('\n'.join(tabulate(metrics, seconds)))


if __name__ == '__main__':
    main()
