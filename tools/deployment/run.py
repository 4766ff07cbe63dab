"""Run an exported model on pictures, without OpenMMLab.

Example:
    python tools/deployment/run.py yolov3.onnx street.jpg pictures/ --out found.json

MODEL is a file of export.py: .onnx, .xml (OpenVINO), .tflite (LiteRT), .param (ncnn) or
.pte (ExecuTorch). MODEL.json beside it describes how pictures are prepared and what the
model returns. This script needs only numpy, Pillow and the runtime of the file, so it
can be copied to other machines.

The results are printed. Detections and segmentations are also drawn into --out-dir.
"""

import argparse
import colorsys
import json
import os
import sys
import traceback
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

SUFFIXES = {'.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
PILLOW_MODES = {mode.name.lower(): mode for mode in Image.Resampling}
# Modes of pictures that Pillow and OpenCV, which OpenMMLab uses, decode differently, or
# that OpenCV does not decode.
UNKNOWN_MODES = {
    'F': 'floating-point numbers',
    'I': '32-bit integers',
    'LAB': 'the colour space L*a*b*',
}
BITS_PER_SAMPLE = 258  # number of this tag in TIFF files
# Keys that a description must have, and those that depend on prepare['resize'].
KEYS = 'task', 'output', 'outputs', 'input', 'prepare', 'classes', 'palette'
INPUT_KEYS = 'shape', 'dynamic', 'preprocess', 'rgb', 'mean', 'std'
PREPARE_KEYS = 'backend', 'interpolation', 'pad_to', 'unknown', 'pad_colour', 'divisor'
RESIZE_KEYS = dict(none=(), stretch=('size',), fit=(), short_edge=('edge', 'size'))


def one_line(error):
    """Return an error as one line, because runtimes raise errors of many lines."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())


# ---- runtimes: each opens a file and returns a function of images (N, 3, H, W)


def open_onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


@cache
def openvino_core():
    """Return the process's only core: destroying one of several harms signals."""
    import openvino

    return openvino.Core()


def open_openvino(path, threads, precision='f32'):
    known = openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    # OpenVINO would compute in float32 instead.
    if dict(f32='FP32', bf16='BF16', f16='FP16')[precision] not in known:
        raise ValueError(
            f'OpenVINO has no {precision} on this CPU, only {", ".join(known)}'
        )
    # By default OpenVINO computes in bfloat16 on CPUs that support it.
    options = {'INFERENCE_PRECISION_HINT': precision, 'PERFORMANCE_HINT': 'LATENCY'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    model = openvino_core().compile_model(path, 'CPU', options)
    return lambda images: [array.copy() for array in model([images]).values()]


def open_litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]['index']
    targets = [details['index'] for details in interpreter.get_output_details()]

    def run(images):
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return [interpreter.get_tensor(target) for target in targets]

    return run


def require_ncnn_f16(path):
    """Raise a ValueError if ncnn would compute a whole file in float32."""
    import ncnn

    # ncnn does not tell of F16C, but all CPUs with AVX2 have it.
    has_f16c = bool(ncnn.cpu_support_x86_avx2())
    has_linear = 'InnerProduct' in path.read_text()
    if not (ncnn.cpu_support_arm_asimdhp() or (has_f16c and has_linear)):
        raise ValueError(
            f'ncnn cannot compute {path.name} in f16 here: convolutions need an Arm '
            'CPU with asimdhp, linear layers also an x86 CPU with F16C. This CPU has '
            f'{"F16C" if has_f16c else "neither"}, and the file has '
            f'{"linear layers" if has_linear else "no linear layer"}'
        )


def open_ncnn(path, threads, precision='f32'):
    import ncnn

    if precision == 'f16':
        require_ncnn_f16(path)
    net = ncnn.Net()
    net.opt.use_bf16_storage = precision == 'bf16'
    for name in ('packed', 'storage', 'arithmetic'):
        setattr(net.opt, f'use_fp16_{name}', precision == 'f16')
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix('.bin'))):
        raise RuntimeError('ncnn cannot read it, or lacks one of its operators')
    names = sorted(net.output_names(), key=lambda name: int(name.removeprefix('out')))

    def run(images):
        with net.create_extractor() as extractor:
            extractor.input('in0', ncnn.Mat(images[0]).clone())
            found = [extractor.extract(name) for name in names]
            if any(status for status, _ in found):
                raise RuntimeError(f'ncnn cannot run {path.name}')
            return [np.array(mat)[None] for _, mat in found]

    return run


def open_executorch(path, threads):
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if threads:
        portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method('forward')

    def run(images):
        outputs = method.execute([torch.from_numpy(images)])
        return [output.numpy().copy() for output in outputs]

    return run


RUNTIMES = {
    '.onnx': (open_onnx, 'onnxruntime'),
    '.xml': (open_openvino, 'openvino'),
    '.tflite': (open_litert, 'ai-edge-litert'),
    '.param': (open_ncnn, 'ncnn'),
    '.pte': (open_executorch, 'executorch'),
}
PRECISE = '.xml', '.param'  # their functions also take a precision other than f32


def read_description(path):
    """Read and check the description of NAME.onnx, NAME.onnx.json beside it."""
    sidecar = path.with_name(f'{path.name}.json')
    for file, what in ((path, 'model'), (sidecar, 'description of the model')):
        if not file.is_file():
            raise FileNotFoundError(f'no such {what}: {file}')
    try:
        meta = json.loads(sidecar.read_text())
        keys = (*KEYS, 'suppression') if meta['output'] == 'dense' else KEYS
        if meta['task'] == 'detection' and meta['output'] != 'features':
            keys = (*keys, 'clip')
        prepare, resize_keys = meta['prepare'], RESIZE_KEYS[meta['prepare']['resize']]
        # Each of these raises a KeyError with the first key that is missing.
        itemgetter(*keys)(meta)
        itemgetter(*INPUT_KEYS)(meta['input'])
        itemgetter(*PREPARE_KEYS, *resize_keys)(prepare)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{sidecar} is not a description of a model: {one_line(error)}'
        ) from error
    return meta


def open_model(path, threads=0, precision='f32'):
    """Open an exported model on ``threads`` threads; with 0 the runtime decides.

    ``precision`` is 'f32', 'bf16' or 'f16'.

    Returns:
        tuple[Callable, dict]: Function that takes images (N, 3, H, W) and returns the
        list of outputs, and the description.

    Raises:
        FileNotFoundError: The file or its description is missing.
        ValueError: The format is unknown, the file or its description cannot be read,
            the runtime or the CPU does not have the precision, or the test pipeline has
            a step that this script does not have.
        ImportError: The runtime is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in RUNTIMES:
        known = ', '.join(RUNTIMES)
        raise ValueError(f'{path} is of an unknown format; a model ends in {known}')
    meta = read_description(path)
    if meta['prepare']['unknown']:
        # Without these steps the network would get different input than in its test.
        steps = ', '.join(meta['prepare']['unknown'])
        raise ValueError(
            f'{path}: the test pipeline has steps that cannot be done here: {steps}; '
            f"if pictures need none of them, empty 'unknown' in {path.name}.json"
        )
    opener, package = RUNTIMES[suffix]
    if precision != 'f32' and suffix not in PRECISE:
        raise ValueError(
            f'{path}: {package} computes in f32, not in {precision}; '
            f'{" and ".join(PRECISE)} files also have other precisions'
        )
    further = [] if precision == 'f32' else [precision]
    try:
        return opener(path, threads, *further), meta
    except ImportError as error:
        raise ImportError(
            f'{path} needs {package}, pip install {package}: {error}'
        ) from error
    except Exception as error:  # runtimes have exceptions of their own
        raise ValueError(f'{path} cannot be opened: {one_line(error)}') from error


# ---- pictures: prepared as in the config's test pipeline


def read_image(path):
    """Read a picture as RGB, as OpenCV does, rotated as its EXIF data say.

    Raises:
        ValueError: OpenCV does not read such pictures, or reads other colours.
    """
    with Image.open(path) as file:
        image, kind = ImageOps.exif_transpose(file), file.format
    # Older versions of Pillow give 16-bit PNG files the mode I.
    if image.mode.startswith('I;16') or (image.mode == 'I' and kind in ('PNG', 'PPM')):
        # OpenCV keeps the high byte, and Pillow's convert would clip at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype('u1'))
    if image.mode in UNKNOWN_MODES:
        what = UNKNOWN_MODES[image.mode]
        raise ValueError(f'the picture has {what}: save it as 8-bit RGB')
    if kind == 'TIFF' and image.mode == 'RGBA' and file.tag_v2[BITS_PER_SAMPLE][0] == 8:
        # OpenCV multiplies the colours of these files by the opacity.
        return Image.merge('RGB', image.convert('RGBa').split()[:3])
    return image.convert('RGB')


def resize_as_opencv(image, size):
    """Resize by OpenCV's bilinear interpolation, which does not smooth when it shrinks.

    ``image`` is (H, W, 3), uint8, and ``size`` the new width and height. The result is
    uint8, computed with integers and rounded as in OpenCV.
    """

    def weigh(old, new):
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype('f4')
        place = place.clip(0, old - 1)
        first = place.astype('i4')
        parts = np.stack([first + 1 - place, place - first])
        weights = np.rint(2048 * parts).astype('i4')
        return first, np.minimum(first + 1, old - 1), *weights[..., None]

    left, right, near, far = weigh(image.shape[1], size[0])
    image = image.astype('i4')
    rows = (image[:, left] * near + image[:, right] * far) >> 4
    upper, lower, near, far = weigh(image.shape[0], size[1])
    near, far = near[..., None], far[..., None]
    rows = (rows[upper] * near >> 16) + (rows[lower] * far >> 16)
    return (rows + 2 >> 2).astype('u1')


def resize(image, size, prepare):
    """Resize a PIL image to (width, height) as the pipeline does; return an array."""
    backend, interpolation = prepare['backend'], prepare['interpolation']
    if size == image.size:
        return np.asarray(image)
    if backend == 'pillow' and interpolation in PILLOW_MODES:
        return np.asarray(image.resize(size, PILLOW_MODES[interpolation]))
    if backend == 'cv2' and interpolation == 'bilinear':
        return resize_as_opencv(np.asarray(image), size)
    raise ValueError(f'cannot resize by {interpolation!r} of {backend!r}')


def prepare_image(image, meta):
    """Turn an RGB picture of PIL into the input of the described network.

    Returns:
        tuple[np.ndarray, tuple[int, int]]: Images (1, 3, H, W), and the width and
        height of the picture in them; it begins at the upper left corner. If the
        pipeline crops, only the middle of the picture is there.

    Raises:
        ValueError: The network does not take pictures of this size.
    """
    prepare, form = meta['prepare'], meta['input']
    kind, pad_to, size = prepare['resize'], prepare['pad_to'], image.size
    short, long = sorted(size)
    if kind == 'stretch':
        size = prepare['size'][::-1]
    elif kind == 'fit':
        if 'scale' in prepare:
            factor = min(prepare['scale'][0] / long, prepare['scale'][1] / short)
        else:
            factor = min(pad_to[1] / size[0], pad_to[0] / size[1])
        size = [max(int(side * factor + 0.5), 1) for side in size]
    elif kind == 'short_edge':
        size = [int(prepare['edge'] * side / short) for side in size]
    pixels = resize(image, tuple(size), prepare)
    if kind == 'short_edge':
        height, width = prepare['size']
        top = max(round((pixels.shape[0] - height) / 2), 0)
        left = max(round((pixels.shape[1] - width) / 2), 0)
        pixels = pixels[top : top + height, left : left + width]
    inside_h, inside_w = pixels.shape[:2]
    divisor = prepare['divisor']
    target_h, target_w = (
        -(-side // divisor) * divisor for side in pad_to or pixels.shape[:2]
    )
    if kind in ('none', 'short_edge') and not form['dynamic']:
        wrong = [inside_h, inside_w] != form['shape'][2:]
    else:
        wrong = inside_h > target_h or inside_w > target_w
    if wrong:
        raise ValueError(
            f'the picture has {inside_w}x{inside_h} pixels where the network takes '
            f'{target_w}x{target_h}'
        )
    canvas = np.empty((target_h, target_w, 3), 'f4')
    canvas[:] = prepare['pad_colour']
    canvas[:inside_h, :inside_w] = pixels
    if not form['preprocess']:
        canvas = canvas if form['rgb'] else canvas[..., ::-1]
        canvas = (canvas - np.float32(form['mean'])) / np.float32(form['std'])
    images = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
    return images, (inside_w, inside_h)


# ---- results


def suppress(boxes, scores, factors, settings):
    """Select from dense boxes as the detector does: by thresholds, then by NMS.

    ``boxes`` are (A, 4), in pixels of the network's input, and ``scores`` (A, C), which
    are multiplied by the ``factors`` (A,), YOLOv3's objectness, if any. ``settings`` is
    'suppression' of the description. Returns boxes with score (K, 5), best first, and
    labels (K,).

    Raises:
        ValueError: The description has a different number of boxes.
    """
    classes, found, start = scores.shape[1], [], 0
    if sum(settings['levels']) != len(boxes):
        raise ValueError(
            f'the model returned {len(boxes)} boxes, but {sum(settings["levels"])} '
            'are described; dense boxes need images of the size of the export'
        )
    for number in settings['levels']:
        level = slice(start, start + number)
        start += number
        allowed = scores[level] > settings['score_thr']
        if factors is not None and settings['conf_thr'] > 0:
            allowed &= (factors[level] >= settings['conf_thr'])[:, None]
        (pairs,) = allowed.ravel().nonzero()
        order = np.argsort(-scores[level].ravel()[pairs], kind='stable')
        if settings['nms_pre'] > 0:
            order = order[: settings['nms_pre']]
        found.append(pairs[order] + level.start * classes)
    index, labels = np.divmod(np.concatenate(found), classes)
    scores, boxes = scores[index, labels], boxes[index]
    if factors is not None:
        scores = scores * factors[index]
    valid = scores > 0
    if settings['min_bbox_size'] >= 0:
        sides = boxes[:, 2:] - boxes[:, :2]
        valid &= (sides > settings['min_bbox_size']).all(1)
    order = np.argsort(-scores, kind='stable')
    order = order[valid[order]]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order) and len(kept) < settings['max_per_img']:
        best, order = order[0], order[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - corner
        shared = sides.clip(0).prod(1)
        overlap = shared / (areas[best] + areas[order] - shared)
        same = labels[order] == labels[best]
        order = order[~(same & (overlap > settings['iou_threshold']))]
    return np.column_stack([boxes[kept], scores[kept]]), labels[kept]


def find_boxes(outputs, size, inside, meta):
    """List detections in pixels of the picture, best first, as (box, score, label).

    ``size`` is width and height of the picture, and ``inside`` its width and height in
    the network's input.
    """
    if meta['output'] == 'dense':
        boxes, scores, *factors = (output[0] for output in outputs)
        factors = factors[0].reshape(-1) if factors else None
        dets, labels = suppress(boxes, scores, factors, meta['suppression'])
    else:
        dets, labels = (output[0] for output in outputs)
    dets, labels = dets[labels >= 0], labels[labels >= 0]
    corners = dets[:, :4].reshape(-1, 2, 2)
    if meta['clip']:
        corners = corners.clip(0, inside)
    boxes = (corners * np.divide(size, inside)).reshape(-1, 4)
    return list(zip(boxes.tolist(), dets[:, 4].tolist(), labels.tolist(), strict=True))


def find_labels(outputs, image, inside):
    """Return the class of each pixel of the picture, (H, W), resized by nearest."""
    labels = outputs[0][0, : inside[1], : inside[0]]
    labels = Image.fromarray(labels.astype('i4'))
    return np.asarray(labels.resize(image.size, Image.Resampling.NEAREST))


def class_name(label, meta):
    classes = meta['classes'] or ()
    return classes[label] if label < len(classes) else f'class {label}'


def colour(label, meta):
    palette = meta['palette'] or ()
    if label < len(palette):
        return tuple(palette[label])
    # Steps of the golden ratio give successive labels very different hues.
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.8, 0.95)
    return int(255 * r), int(255 * g), int(255 * b)


def write_text(draw, place, text, font):
    left, top, right, bottom = draw.textbbox(place, text, font)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), 'black')
    draw.text(place, text, 'white', font)


def draw_boxes(image, found, meta):
    """Draw boxes with class and score, the best ones on top."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(min(image.size) / 35, 10))
    width = max(min(image.size) // 200, 1)
    for (x1, y1, x2, y2), score, label in reversed(found):
        corners = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        draw.rectangle(corners, outline=colour(label, meta), width=width)
        text = f'{class_name(label, meta)} {score:.2f}'
        write_text(draw, (max(x1, 0) + width, max(y1, 0) + width), text, font)
    return image


def draw_labels(image, labels, classes, meta):
    """Colour the pixels by their class, and draw a legend of ``classes``."""
    colours = np.zeros((labels.max() + 1, 3), 'u1')
    for label in classes:
        colours[label] = colour(label, meta)
    image = Image.blend(image, Image.fromarray(colours[labels]), 0.5)
    draw, size = ImageDraw.Draw(image), max(min(image.size) / 35, 10)
    font = ImageFont.load_default(size)
    for line, label in enumerate(classes):
        y = size * (0.3 + 1.4 * line)
        draw.rectangle((3, y, 3 + size, y + size), colour(label, meta), 'black')
        write_text(draw, (size + 8, y), class_name(label, meta), font)
    return image


def predict(session, meta, image, score_thr):
    """Run a model of :func:`open_model` on an RGB picture.

    Returns:
        tuple[list[dict], PIL.Image.Image | None]: The results for JSON: boxes in pixels
        of the picture with scores from ``score_thr`` on, the five best classes, classes
        with their share of the pixels, or names and shapes of features; and the
        drawing of boxes or pixels.
    """

    def named(label, **values):
        return dict(label=label, name=class_name(label, meta), **values)

    images, inside = prepare_image(image, meta)
    outputs = session(images)
    if meta['output'] == 'features':
        names = zip(meta['outputs'], outputs, strict=True)
        return [dict(name=name, shape=list(x.shape)) for name, x in names], None
    if meta['task'] == 'classification':
        scores = outputs[0][0]
        best = np.argsort(-scores, kind='stable')[:5].tolist()
        return [named(label, score=float(scores[label])) for label in best], None
    if meta['task'] == 'detection':
        found = find_boxes(outputs, image.size, inside, meta)
        found = [row for row in found if row[1] >= score_thr]
        rows = [named(label, score=score, box=box) for box, score, label in found]
        return rows, draw_boxes(image, found, meta)
    labels = find_labels(outputs, image, inside)
    shares = np.bincount(labels.ravel()) / labels.size
    classes = np.argsort(-shares, kind='stable')[: np.count_nonzero(shares)].tolist()
    rows = [named(label, share=float(shares[label])) for label in classes]
    return rows, draw_labels(image, labels, classes, meta)


def line_of(row):
    """Return one result as a line to print."""
    if 'shape' in row:
        return f'{row["name"]} {tuple(row["shape"])}'
    if 'share' in row:
        return f'{row["share"]:7.2%} {row["name"]}'
    box = ' '.join(f'{value:.1f}' for value in row.get('box', ()))
    return f'{row["score"]:.3f} {row["name"]} {box}'.rstrip()


def list_images(paths):
    """List pairs of a picture and the name of its drawing; folders are searched."""
    images = []
    for path in paths:
        if not path.is_dir():
            images.append((path, Path(path.name)))
            continue
        inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise ValueError(f'{path} has no pictures')
        images += [(p, p.relative_to(path)) for p in inside]
    return images


def require_own_drawings(images):
    """Raise a ValueError if two pictures of :func:`list_images` share a drawing."""
    seen = {}
    for path, name in images:
        other = seen.setdefault(name, path)
        if other.resolve() != path.resolve():
            raise ValueError(f'{other} and {path} would both be drawn as {name}')


# The same as in mmghostnetv2.output, which this script does not import.
def require_free(file, force):
    """Raise an OSError if a file exists or cannot be written."""
    if file.exists() and not file.is_file():
        raise OSError(f'{file} is a folder or a device')
    if file.exists() and not force:
        raise FileExistsError(f'{file} exists; --force overwrites it')
    folder = next(p for p in file.absolute().parents if p.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f'{folder} is not a folder')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f'{folder} cannot be written to')


@contextmanager
def written(file):
    """Yield a temporary path and move it to ``file`` when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_stem(f'.unfinished-{file.stem}')
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def share(text):
    """Read a number from 0 to 1, for argparse."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'must be from 0 to 1, got {text}')
    return number


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('model', metavar='MODEL', type=Path, help='exported file')
    add('images', metavar='IMAGE', type=Path, nargs='+', help='pictures or folders')
    default = Path('work_dirs/run')
    text = f'folder for the drawings (default: {default})'
    add('--out-dir', metavar='DIR', type=Path, default=default, help=text)
    add('--out', metavar='FILE.json', type=Path, help='also write the results here')
    add('--force', action='store_true', help='overwrite existing files')
    text = 'lowest score of a box (default: 0.3)'
    add('--score-thr', metavar='SCORE', type=share, default=0.3, help=text)
    text = 'number of threads (default: the runtime decides)'
    add('--threads', metavar='N', type=int, default=0, help=text)
    text = 'precision to compute in: bf16 and f16 are for OpenVINO and ncnn, on CPUs '
    text += 'that have them (default: f32)'
    add('--precision', choices=['f32', 'bf16', 'f16'], default='f32', help=text)
    args = parser.parse_args(argv)
    if args.threads < 0:
        parser.error(f'argument --threads: must be at least 0, got {args.threads}')
    images = list_images(args.images)
    session, meta = open_model(args.model, args.threads, args.precision)
    files = [args.out] if args.out else []
    if meta['output'] != 'features' and meta['task'] != 'classification':
        require_own_drawings(images)
        files += [args.out_dir / name for _, name in images]
    for file in files:  # before the work, which would be lost
        require_free(file, args.force)
    results, failures = {}, []
    for number, (path, name) in enumerate(images, 1):
        try:
            found, drawing = predict(session, meta, read_image(path), args.score_thr)
            target = args.out_dir / name
            if drawing is not None:
                if target.exists() and target.samefile(path):
                    raise ValueError('the drawing would overwrite the picture')
                with written(target) as part:
                    drawing.save(part)
        except Exception as error:  # the other pictures are still processed
            failures.append(f'{path}: {one_line(error)}')
            print(failures[-1], file=sys.stderr)
            continue
        results[str(path)] = found
        progress = f'[{number}/{len(images)}] ' if len(images) > 1 else ''
        print(f'{progress}{path}' + (f' -> {target}' if drawing is not None else ''))
        for row in found:
            print(f'    {line_of(row)}')
        if not found:  # only a detector may find nothing
            print(f'    no box has a score of --score-thr {args.score_thr} or more')
    if args.out and results:
        with written(args.out) as part:
            part.write_text(json.dumps(results, indent=1) + '\n')
    if failures:
        number = f'{len(failures)} of {len(images)} pictures failed'
        raise RuntimeError(f'{number}, the first is {failures[0]}')


if __name__ == '__main__':
    # The same as mmghostnetv2.arguments.run_tool, which this script does not import.
    try:
        main()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get('MMGHOSTNETV2_DEBUG'):
            traceback.print_exc()
        sys.exit(f'error: {one_line(error)}')
