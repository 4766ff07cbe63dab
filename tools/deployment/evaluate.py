r"""Test exported models with the data and the metric of a config.

Example:
    python tools/deployment/evaluate.py configs/digits/ghostnetv2_100_digits.py \
        digits.onnx digits_int8.onnx

The tool uses the config's test pipeline, data preprocessor and evaluator, and replaces
only the network by the file. The predicted labels of a segmentor are resized
to the picture by the nearest pixel. mmseg resizes the logits instead, so the metric may
differ slightly. The tool also times all files in turn on one image. A time is the
median over the rounds, and a ratio is the median of the ratios to the first file within
each round.
"""

import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmghostnetv2.analysis import paired_ratios, quartiles, time_interleaved
from mmghostnetv2.apis import require_model
from mmghostnetv2.arguments import (
    add_config,
    load_config,
    make_parser,
    named_errors,
    positive_int,
    run_tool,
)
from mmghostnetv2.deployment.metadata import load_metadata
from mmghostnetv2.deployment.networks import find_task
from mmghostnetv2.deployment.runtimes import RUNTIMES, check_runtime, find_runtime
from mmghostnetv2.output import markdown_table


def pad_to_size(image, meta):
    """Pad an image (3, H, W) to the size that a file takes.

    The padding is on the right and at the bottom, as in the data preprocessors.

    Raises:
        ValueError: The image is larger, or a classifier takes a different size.
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
    """Run an exported network, image by image, instead of a model's test step."""
    data, form = model.data_preprocessor(data, False), meta['input']
    for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
        if not form['dynamic']:
            image = pad_to_size(image, meta)
        if form['preprocess']:
            mean, std = (torch.tensor(form[x])[:, None, None] for x in ('mean', 'std'))
            image = image * std + mean
            image = image if form['rgb'] else image.flip(0)
        outputs = [x[0] for x in session(image[None].numpy())]
        if meta['task'] == 'classification':
            scores = torch.from_numpy(outputs[0])
            sample.set_pred_score(scores).set_pred_label(scores.argmax())
        elif meta['task'] == 'segmentation':
            height, width = sample.img_shape
            labels = torch.from_numpy(outputs[0][:height, :width])
            labels = F.interpolate(labels[None, None].float(), sample.ori_shape)
            sample.pred_sem_seg = PixelData(data=labels[0].long())
        else:
            dets, labels = outputs
            dets, labels = dets[labels >= 0], labels[labels >= 0]
            size = sample.ori_shape[1::-1]
            # Width and height of the picture in the image, without padding.
            factors = sample.get('scale_factor', (1.0, 1.0))
            inside = [round(x * f) for x, f in zip(size, factors, strict=True)]
            boxes = dets[:, :4].reshape(-1, 2, 2)
            boxes = boxes.clip(0, inside) if meta['clip'] else boxes
            boxes = (boxes * np.divide(size, inside)).reshape(-1, 4)
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(boxes).float(),
                scores=torch.from_numpy(dets[:, 4]),
                labels=torch.from_numpy(labels).long(),
            )
    return data['data_samples']


def evaluate(config, session, meta):
    """Return the metrics of an exported network by name.

    Raises:
        ValueError: The config has no model or no test data, or task or number of
            classes of config and network differ.
    """
    require_model(config)
    runner = Runner.from_cfg(config)
    task = find_task(runner.model)
    if task != meta['task']:
        raise ValueError(f'the file is for {meta["task"]}, the config for {task}')
    if runner.test_loop is None:
        raise ValueError('the config has no data and no metric to test with')
    known = meta['classes'], runner.test_loop.dataloader.dataset.metainfo.get('classes')
    ours, theirs = (len(classes or ()) for classes in known)
    if ours and theirs and ours != theirs:
        raise ValueError(f'the file has {ours} classes, the data {theirs}')
    runner.model.to('cpu')  # the runtimes' outputs are on the CPU
    runner.model.test_step = partial(predict, runner.model, session, meta)
    return runner.test()


def open_file(path, threads, openvino, precision='f32'):
    """Open an exported file; return its session and its description.

    Raises:
        ValueError: The file does not return predictions, or its runtime or this CPU
            does not have the precision.
    """
    runtime = find_runtime(path)
    if openvino and runtime.format == 'onnx':
        runtime = RUNTIMES['openvino']
    check_runtime(runtime.name)
    if precision not in runtime.precisions:
        known = ', '.join(runtime.precisions)
        raise ValueError(f'{runtime.title} computes in {known}, not in {precision}')
    meta = load_metadata(path)
    if meta['output'] != 'predictions':
        raise ValueError(f'{path} has the output {meta["output"]}, not predictions')
    further = [] if precision == 'f32' else [precision]
    return runtime.open(path, threads, *further), meta


def tabulate(metrics, seconds):
    """Return the results as the lines of a Markdown table."""
    first = next(iter(seconds))
    # CocoMetric returns no metrics if there is no box.
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    ratios = paired_ratios(seconds, first)
    rows = [['file', *names, 'ms', 'ratio']]
    for file, values in metrics.items():
        cells = [f'{values[x]:.3f}' if x in values else 'none' for x in names]
        milliseconds = 1e3 * quartiles(seconds[file]).median
        rows.append([file, *cells, f'{milliseconds:.2f}', f'{ratios[file].median:.3f}'])
    return markdown_table(rows)


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config(parser, checkpoint=None)
    add('models', metavar='MODEL', type=Path, nargs='+', help='exported files')
    add('--openvino', action='store_true', help='run .onnx files in OpenVINO')
    text = 'precisions to compute each file in: bf16 and f16 in OpenVINO and ncnn, on '
    text += 'CPUs that have them (default: f32)'
    choices = sorted({name for r in RUNTIMES.values() for name in r.precisions})
    add('--precision', choices=choices, nargs='+', default=['f32'], help=text)
    text = 'number of threads (default: 1)'
    add('--threads', metavar='N', type=positive_int, default=1, help=text)
    text = 'timed runs of each file (default: 50)'
    add('--rounds', metavar='N', type=positive_int, default=50, help=text)
    args = parser.parse_args(argv)
    config = load_config(args)
    config.log_level = 'WARNING'
    # The config's visualizer would write into the temporary folder.
    config.visualizer = dict(type='Visualizer', name='evaluate')
    opened, metrics, runners = {}, {}, {}
    for path, precision in product(args.models, args.precision):
        name = str(path) if precision == 'f32' else f'{path} ({precision})'
        with named_errors(path):
            opened[name] = open_file(path, args.threads, args.openvino, precision)
    with tempfile.TemporaryDirectory() as config.work_dir:
        for name, (session, meta) in opened.items():
            with named_errors(f'{name} by {args.config}'):
                metrics[name] = evaluate(config, session, meta)
            images = torch.rand(meta['input']['shape']).numpy()
            runners[name] = partial(session, images)
    seconds = time_interleaved(runners, args.rounds)
    print('\n'.join(tabulate(metrics, seconds)))


if __name__ == '__main__':
    run_tool(main)
