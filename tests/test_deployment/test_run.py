"""tools/deployment/run.py: exported models without torch, against the inferencers."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from mmghostnetv2.deployment.metadata import describe, preparation
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.deployment.runtimes import RUNTIMES

from .conftest import (
    SIDE,
    assert_same_detections,
    load,
    make_model,
    needs,
    read_pictures,
    rounding,
)

pytest.importorskip('onnx', reason='needs onnx')
pytest.importorskip('onnxruntime', reason='needs onnxruntime')

# none of them is needed where a model runs
BLOCKED = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
BLOCKED += ('mmghostnetv2', 'cv2', 'matplotlib', 'scipy', 'onnx')
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({BLOCKED}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def tool():
    return load('run')


@pytest.fixture(scope='module')
def image(coco_mini):
    return min((coco_mini / 'val2017').iterdir())


def run_alone(*args):
    """Run the tool where nothing of the training's libraries can be imported."""
    command = [sys.executable, '-c', WITHOUT, load('run').__file__, *args]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_detector_is_the_inferencer(exported, trained, pictures, image, tmp_path):
    """Boxes in pixels of the picture; they are drawn in their colours."""
    folder = exported('detector')
    apis = pytest.importorskip('mmdet.apis')
    inferencer = apis.DetInferencer(
        str(folder / 'a.py'), str(folder / 'a.pth'), device='cpu', show_progress=False
    )
    (theirs,) = inferencer(str(image))['predictions']
    found = tmp_path / 'new' / 'found.json'
    args = ('--out-dir', tmp_path / 'out', '--score-thr', '0.2', '--out', found)
    printed = run_alone(folder / 'a.onnx', image, *args)
    (rows,) = json.loads(found.read_text()).values()
    number = np.sum(np.array(theirs['scores']) >= 0.2)
    assert number > 20 and len(rows) == number
    ours = np.array([[*row['box'], row['score']] for row in rows])
    labels = np.array([row['label'] for row in rows])
    theirs = np.column_stack([theirs['bboxes'], theirs['scores'], theirs['labels']])
    theirs = theirs[:number]
    rounded = rounding(trained.models['detector'], pictures((SIDE, SIDE), 1))
    scale = max(Image.open(image).size) / SIDE
    expected = theirs[:, :5], theirs[:, 5]
    assert_same_detections((ours, labels), expected, rounded, scale=scale)
    assert [row['name'] for row in rows] == [f'kind {label}' for label in labels]
    assert printed.count('kind ') == number and str(image) in printed
    drawing, picture = Image.open(tmp_path / 'out' / image.name), Image.open(image)
    assert drawing.size == picture.size
    changed = np.asarray(drawing.convert('RGB'), int) - np.asarray(
        picture.convert('RGB')
    )
    assert (np.abs(changed).max(-1) > 60).mean() > 0.01


def test_segmentor_is_the_inferencer(exported, image, tmp_path, tool):
    """Pixels mixed with the colours of what the inferencer sees in them."""
    folder = exported('segmentor')
    apis = pytest.importorskip('mmseg.apis')
    # of the size to which the pipeline would bring it
    path = tmp_path / 'a.png'
    picture = Image.open(image).convert('RGB').resize((128, 100))
    picture.save(path)
    inferencer = apis.MMSegInferencer(
        str(folder / 'a.py'), str(folder / 'a.pth'), device='cpu'
    )
    theirs = inferencer(str(path), show=False)['predictions']
    found = tmp_path / 'found.json'
    run_alone(folder / 'a.onnx', path, '--out-dir', tmp_path / 'out', '--out', found)
    (rows,) = json.loads(found.read_text()).values()
    assert len(rows) > 3
    shares = [row['share'] for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    for row in rows:
        assert row['share'] == pytest.approx((theirs == row['label']).mean(), abs=1e-3)
    palette = np.array([[i, 200 - 3 * i, 7 * i % 256] for i in range(20)])
    mixed = (np.asarray(picture, int) + palette[theirs]) / 2
    drawing = np.asarray(Image.open(tmp_path / 'out' / 'a.png'), int)
    same = np.abs(drawing - mixed).max(-1) <= 1
    assert same[:, 70:].mean() > 0.999  # the names are on the left


def test_classifier_is_the_inferencer(exported, image, tmp_path):
    folder = exported('classifier')
    apis = pytest.importorskip('mmpretrain.apis')
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # not an earlier test's
        inferencer = apis.ImageClassificationInferencer(
            str(folder / 'a.py'), str(folder / 'a.pth'), device='cpu'
        )
        scores = inferencer(str(image))[0]['pred_scores']
    printed = run_alone(folder / 'a.onnx', image, '--out-dir', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    lines = [line.split(' ', 1) for line in map(str.strip, printed.splitlines()[1:])]
    best = np.argsort(-scores)[:5]
    assert [name for _, name in lines] == [f'kind {i}' for i in best]
    for (score, _), i in zip(lines, best, strict=True):
        assert float(score) == pytest.approx(scores[i], abs=6e-4)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('yolov3_ghostnetv2_320', {'model.test_cfg.conf_thr': 0.55}),
        (
            'rtmdet-tiny_ghostnetv2_coco',
            {'model.test_cfg.nms_pre': 300, 'model.test_cfg.min_bbox_size': 4},
        ),
    ],
)
def test_dense_boxes_are_suppressed_as_the_detector_does(
    tool, name, options, coco_mini
):
    """By thresholds, level and class, in numpy."""
    pytest.importorskip('mmdet', reason='needs mmdet')
    pixels = read_pictures(coco_mini, (96, 128))
    options['model.test_cfg.max_per_img'] = 80
    options['model.test_cfg.nms.iou_threshold'] = 0.3
    model = make_model(name, pixels, **options)
    dense, whole = deployable(model, 'dense', True), deployable(model, preprocess=True)
    shape = (1, 3, 96, 128)
    image = Image.fromarray(pixels[0])
    found = {}
    for network, output in ((dense, 'dense'), (whole, 'predictions')):
        meta = describe(model, network, output, shape)
        meta['prepare'] |= dict(resize='none')

        @torch.no_grad()
        def session(images, network=network):
            return [output.numpy() for output in network(torch.from_numpy(images))]

        rows, _ = tool.predict(session, meta, image, 0)
        boxes = np.array([[*row['box'], row['score']] for row in rows])
        found[output] = boxes, np.array([row['label'] for row in rows])
    assert len(found['predictions'][0]) > 30
    rounded = rounding(model, pixels[:1])
    assert_same_detections(found['dense'], found['predictions'], rounded)


def test_dense_boxes_of_another_size_are_refused(tool):
    settings = dict(levels=[2, 3])
    with pytest.raises(ValueError, match='returned 4 boxes, but 5 are described'):
        tool.suppress(np.zeros((4, 4)), np.zeros((4, 2)), None, settings)


@pytest.mark.parametrize('size', [(31, 20), (117, 300), (64, 48), (1, 5)])
def test_resizing_is_opencvs(tool, size):
    """To a value of 256 at most, and nearly everywhere to none."""
    cv2 = pytest.importorskip('cv2')
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    theirs = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR).astype(int)
    errors = np.abs(tool.resize_as_opencv(pixels, size) - theirs)
    assert errors.max() <= 1 and (errors > 0).mean() < 0.01


def test_a_box_is_drawn_where_it_is(tool):
    image = Image.new('RGB', (200, 100))
    meta = dict(classes=['a'], palette=[[1, 2, 3], [250, 9, 60]])
    drawing = tool.draw_boxes(image, [((20.2, 30.1, 150, 90), 0.5, 1)], meta)
    pixels = np.asarray(drawing)
    rows, columns = (pixels == [250, 9, 60]).all(-1).nonzero()
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 150, 90)
    assert not pixels[50:89, 22:149].any() and not np.asarray(image).any()
    assert (pixels[31:45, 21:60] > 150).all(-1).any()  # its class, 'class 1'


def test_pictures_are_turned_as_the_camera_says(tool, tmp_path):
    image = Image.new('L', (30, 20), 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    image.save(tmp_path / 'a.jpg', exif=exif)
    turned = tool.read_image(tmp_path / 'a.jpg')
    assert turned.size == (20, 30) and turned.mode == 'RGB'


def make_pictures():
    """Make a picture in each mode that Pillow can save: {name: (picture, options)}."""
    rng, (height, width) = np.random.default_rng(0), (37, 50)
    rgb, alpha = (rng.integers(0, 256, (height, width, n), 'u1') for n in (3, 1))
    image, alpha = Image.fromarray(rgb), Image.fromarray(alpha[..., 0])
    pictures = {mode: (image.convert(mode), {}) for mode in ('1', 'L', 'P', 'RGB')}
    for name in ('L', 'P', 'RGB'):
        transparent = rgb[0, 0].tolist() if name == 'RGB' else 3
        options = {'transparency': tuple(transparent) if name == 'RGB' else 3}
        pictures[f'{name} with transparency'] = image.convert(name), options
    for mode in ('RGB', 'L', 'P'):
        picture = image.convert(mode)
        picture.putalpha(alpha)
        pictures[picture.mode] = picture, {}
    pictures['RGBa'] = pictures['RGBA'][0].convert('RGBa'), {}
    pictures['RGBA, premultiplied'] = pictures['RGBA'][0], {'tiffinfo': {338: 1}}
    for mode in ('RGBX', 'YCbCr', 'HSV'):
        pictures[mode] = image.convert(mode), {}
    inks = rng.integers(0, 256, (height, width, 4), 'u1')
    pictures['CMYK'] = Image.fromarray(inks, 'CMYK'), {}
    pictures['LAB'] = Image.merge('LAB', image.split()), {}
    deep = rng.integers(0, 2**16, (height, width), '<u2')
    for mode, kind in (('I;16', '<u2'), ('I;16L', '<u2'), ('I;16B', '>u2')):
        data = deep.astype(kind).tobytes()
        pictures[mode] = Image.frombytes(mode, (width, height), data), {}
    pictures['I'] = Image.fromarray(deep.astype('i4')), {}
    pictures['F'] = Image.fromarray(deep.astype('f4')), {}
    return pictures


# Largest differences where the two decoders round differently: for CMYK, OpenCV divides
# by 256 and Pillow by 255; for YCbCr, libtiff and Pillow have tables of their own.
ROUNDING = {('CMYK', 'jpg'): 2, ('CMYK', 'tif'): 1, ('YCbCr', 'tif'): 1}


@pytest.mark.parametrize('name', make_pictures())
def test_pictures_are_read_as_the_library_does(tool, tmp_path, name):
    """In every format that has the mode; what only one of the two reads is refused."""
    mmcv = pytest.importorskip('mmcv', reason='the loader of the libraries')
    (image, options), refused = make_pictures()[name], {}
    for suffix in ('png', 'tif', 'jpg', 'webp', 'bmp', 'gif', 'pgm'):
        path = tmp_path / f'a.{suffix}'
        try:
            image.save(path, **options)
        except (OSError, ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # this format does not have the mode
            continue
        theirs = mmcv.imread(path, backend='cv2')  # as in LoadImageFromFile
        try:
            ours = tool.read_image(path)
        except ValueError as error:
            refused[suffix] = str(error)
            continue
        assert ours.mode == 'RGB'
        difference = np.abs(np.asarray(ours, int) - theirs[..., ::-1])
        assert difference.max() <= ROUNDING.get((name, suffix), 0), suffix
    assert list(tmp_path.iterdir())
    expected = dict(F=['tif', 'pgm'], I=['tif'], LAB=['tif']).get(name, [])
    assert list(refused) == expected
    for message in refused.values():
        assert re.match('the picture has .*: save it as 8-bit RGB', message)


@pytest.mark.parametrize(('suffix', 'channels'), [('png', 3), ('png', 4), ('tif', 3)])
def test_16_bit_colours_are_read_as_the_library_does(tool, tmp_path, suffix, channels):
    """Pillow takes the high byte; of TIFF files OpenCV divides by 257, and rounds."""
    cv2 = pytest.importorskip('cv2')
    path = str(tmp_path / f'a.{suffix}')
    shape = 40, 30, channels
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 2**16, shape, 'u2'))
    ours = np.asarray(tool.read_image(path), int)
    assert np.abs(ours - cv2.imread(path)[..., ::-1]).max() <= (suffix == 'tif')


def test_broken_pictures_are_named_and_the_others_go_on(
    tool, exported, image, tmp_path, capsys
):
    """A folder's pictures are counted; what failed is in the exit code."""
    folder = exported('classifier')
    pictures = tmp_path / 'pictures'
    (pictures / 'more').mkdir(parents=True)
    shutil.copy(image, pictures / 'a.jpg')
    (pictures / 'b.jpg').write_bytes(image.read_bytes()[:900])
    (pictures / 'c.PNG').write_text('no picture')
    (pictures / 'notes.txt').write_text('none of them')
    shutil.copy(image, pictures / 'more' / 'd.jpg')
    found = tmp_path / 'found.json'
    missing = tmp_path / 'none.jpg'
    args = [folder / 'a.onnx', pictures, missing, '--out', found]
    with pytest.raises(RuntimeError, match='3 of 5 pictures failed'):
        tool.main([*map(str, args)])
    printed = capsys.readouterr()
    names = ['a.jpg', 'more/d.jpg']
    assert [*json.loads(found.read_text())] == [str(pictures / name) for name in names]
    assert f'[1/5] {pictures / "a.jpg"}' in printed.out
    assert f'[4/5] {pictures / "more/d.jpg"}' in printed.out
    for path in (pictures / 'b.jpg', pictures / 'c.PNG', missing):
        assert f'{path}: ' in printed.err


def test_wrong_size_is_named(tool, exported, tmp_path, capsys):
    """Where nothing says how to bring a picture to the size of the network."""
    folder = exported('classifier')
    shutil.copy(folder / 'a.onnx', tmp_path)
    meta = json.loads((folder / 'a.onnx.json').read_text())
    meta['prepare'] |= dict(resize='none')
    (tmp_path / 'a.onnx.json').write_text(json.dumps(meta))
    Image.new('RGB', (100, 128)).save(tmp_path / 'a.png')
    with pytest.raises(RuntimeError, match='1 of 1 pictures failed'):
        tool.main([str(tmp_path / 'a.onnx'), str(tmp_path / 'a.png')])
    message = capsys.readouterr().err
    assert 'a.png: ValueError: the picture has 100x128 pixels where' in message
    assert 'takes 128x128' in message


def test_nothing_found_is_said(tool, exported, image, tmp_path, capsys):
    folder = exported('detector')
    args = [str(folder / 'a.onnx'), str(image), '--out-dir', str(tmp_path)]
    tool.main([*args, '--score-thr', '1'])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].strip() == 'no box has a score of --score-thr 1.0 or more'
    tool.main([*args, '--score-thr', '0', '--force'])
    assert 'no box' not in capsys.readouterr().out


def test_drawings_never_replace_pictures(tool, exported, image, tmp_path, capsys):
    folder = exported('detector')
    picture = tmp_path / 'a.jpg'
    shutil.copy(image, picture)
    args = [str(folder / 'a.onnx'), str(picture), '--out-dir', str(tmp_path)]
    with pytest.raises(FileExistsError, match='a.jpg exists; --force overwrites it'):
        tool.main(args)
    with pytest.raises(RuntimeError, match='1 of 1 pictures failed'):
        tool.main([*args, '--force'])
    assert 'would overwrite the picture' in capsys.readouterr().err
    assert picture.read_bytes() == image.read_bytes()


def test_bad_arguments_are_named(tool, exported, image, tmp_path, monkeypatch):
    def fails(*args):
        with pytest.raises((ImportError, OSError, ValueError)) as info:
            tool.main([*map(str, args)])
        return str(info.value)

    model = exported('classifier') / 'a.onnx'
    assert 'no such model: none.onnx' in fails('none.onnx', image)
    assert 'a.pth is of an unknown format' in fails('a.pth', image)
    shutil.copy(model, tmp_path)
    alone, sidecar = tmp_path / 'a.onnx', tmp_path / 'a.onnx.json'
    assert f'no such description of the model: {sidecar}' in fails(alone, image)
    meta = json.loads(Path(f'{model}.json').read_text())
    lacking = meta | dict(prepare={**meta['prepare'], 'resize': 'short_edge'})
    del lacking['prepare']['edge']
    no_clip = meta | dict(task='detection')
    other = meta | dict(prepare={**meta['prepare'], 'resize': 'warp'})
    for text in ('{', '{}', '[]', *map(json.dumps, (lacking, no_clip, other))):
        sidecar.write_text(text)
        assert f'{sidecar} is not a description' in fails(alone, image)
    sidecar.write_text(json.dumps(meta))
    alone.write_bytes(b'no model')
    message = fails(alone, image)
    assert message.startswith(f'{alone} cannot be opened: ')
    assert '\n' not in message
    (tmp_path / 'empty').mkdir()
    assert 'empty has no pictures' in fails(model, tmp_path / 'empty')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'needs onnxruntime, pip install onnxruntime' in fails(model, image)


def test_suffixes_in_capitals_are_known(tool, exported, tmp_path):
    """As in export.py."""
    path = shutil.copy(exported('classifier') / 'a.onnx', tmp_path / 'a.ONNX')
    shutil.copy(exported('classifier') / 'a.onnx.json', f'{path}.json')
    session, meta = tool.open_model(path)
    assert session(np.zeros(meta['input']['shape'], 'f4'))[0].shape == (1, 20)


FOUND = {
    'detection': [np.array([[[1, 2, 6, 7, 0.9]]], 'f4'), np.array([[0]])],
    'segmentation': [np.ones((1, 8, 8), 'i8')],
    'classification': [np.ones((1, 3), 'f4')],
}


@pytest.fixture
def scripted(tool, tmp_path, monkeypatch):
    """Describe a model that finds always the same: ``scripted(task)`` is its file."""

    def write(task, output='predictions', **prepare):
        path = tmp_path / 'scripted.onnx'
        path.touch()
        form = dict(shape=[1, 3, 8, 8], dynamic=False, preprocess=True, rgb=True)
        form |= dict(mean=[0] * 3, std=[1] * 3)
        prepare = dict(resize='stretch', size=[8, 8], pad_to=[8, 8]) | prepare
        prepare = dict(backend='cv2', interpolation='bilinear') | prepare
        prepare = dict(unknown=[], pad_colour=[0] * 3, divisor=1) | prepare
        meta = dict(task=task, output=output, outputs=['a'], input=form, clip=True)
        meta |= dict(prepare=prepare, classes=None, palette=None)
        Path(f'{path}.json').write_text(json.dumps(meta))
        outputs = FOUND[task][:1] if output == 'features' else FOUND[task]
        opener = lambda *args: lambda images: outputs  # noqa: E731
        monkeypatch.setitem(tool.RUNTIMES, '.onnx', (opener, 'onnxruntime'))
        return path

    return write


@pytest.fixture
def twins(tmp_path):
    """Two pictures of one name."""
    paths = [tmp_path / folder / 'a.png' for folder in ('left', 'right')]
    for path in paths:
        path.parent.mkdir()
        Image.new('RGB', (16, 12)).save(path)
    return paths


@pytest.mark.parametrize(
    ('task', 'output', 'drawn'),
    [
        ('detection', 'predictions', True),
        ('segmentation', 'predictions', True),
        ('detection', 'features', False),
        ('classification', 'predictions', False),
    ],
)
def test_one_name_is_refused_where_it_is_drawn(
    tool, scripted, twins, tmp_path, task, output, drawn
):
    """One drawing would replace the other; without drawings all are looked at."""
    found, out = tmp_path / 'found.json', tmp_path / 'out'
    options = ['--out', str(found), '--out-dir', str(out)]
    args = [str(scripted(task, output)), *map(str, twins), *options]
    if drawn:
        with pytest.raises(ValueError, match='would both be drawn as a.png'):
            tool.main(args)
        # the same picture twice has the same drawing
        same = twins[0].parent / '..' / 'left' / 'a.png'
        tool.main([args[0], args[1], str(same), *options])
        assert (out / 'a.png').is_file()
    else:
        tool.main(args)
        assert [*json.loads(found.read_text())] == [*map(str, twins)]
        assert not out.exists()


@pytest.mark.parametrize(
    ('pipeline', 'unknown'),
    [
        ([dict(type='ResizeEdge', scale=10)], ['ResizeEdge']),
        ([dict(type='ResizeEdge', scale=10, edge='long')], ['ResizeEdge']),
        ([dict(type='Resize', scale_factor=0.5, keep_ratio=True)], ['Resize']),
        ([dict(type='ResizeEdge', scale=10), dict(type='CenterCrop', crop_size=8)], []),
    ],
)
@pytest.mark.parametrize('dynamic', [False, True])
def test_steps_that_cannot_be_done_are_refused(
    tool, scripted, twins, pipeline, unknown, dynamic
):
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    prepare = preparation(cfg, (8, 8), dynamic)
    assert prepare['unknown'] == unknown
    path = scripted('classification', **prepare)
    if unknown:
        message = f'cannot be done here: {unknown[0]}; .*scripted.onnx.json'
        with pytest.raises(ValueError, match=message):
            tool.main([str(path), str(twins[0])])
    else:
        tool.main([str(path), str(twins[0])])


def test_folders_that_cannot_be_written_are_named_first(
    tool, scripted, twins, tmp_path, monkeypatch
):
    """Not after all pictures have been looked at."""
    path, picture, file = scripted('detection'), twins[0], tmp_path / 'file'
    file.touch()
    locked = tmp_path / 'locked'
    locked.mkdir()
    # root may write everywhere
    monkeypatch.setattr(tool.os, 'access', lambda path, mode: path != locked)
    monkeypatch.setattr(tool, 'predict', None)
    for options, message in {
        ('--out-dir', file): f'{file} is not a folder',
        ('--out-dir', file / 'a'): f'{file} is not a folder',
        ('--out-dir', locked): f'{locked} cannot be written to',
        ('--out', file / 'a.json'): f'{file} is not a folder',
        ('--out', locked / 'a.json'): f'{locked} cannot be written to',
        ('--out', tmp_path): f'{tmp_path} is a folder',
    }.items():
        args = [path, picture, '--out-dir', tmp_path / 'out', *options]
        with pytest.raises(OSError, match=message):
            tool.main([*map(str, args)])


@pytest.mark.parametrize('runtime', ['openvino', 'ncnn', 'litert', 'executorch'])
def test_other_runtimes_find_the_same(tool, exported, image, tmp_path, runtime):
    """Their files hold a network with the classifier's description."""
    needs(runtime)
    folder = exported('classifier')
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 20, 16, 16)

    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x).mean((2, 3)).softmax(1)

    images, results = torch.rand(1, 3, SIDE, SIDE), []
    for name in ('onnxruntime', runtime):
        path = RUNTIMES[name].convert(Means().eval(), images, tmp_path / 'b')
        shutil.copy(folder / 'a.onnx.json', f'{path}.json')
        session, meta = tool.open_model(path, threads=1)
        rows, _ = tool.predict(session, meta, tool.read_image(image), 0)
        results.append({row['name']: row['score'] for row in rows})
    assert results[1] == pytest.approx(results[0], rel=1e-3)


@pytest.fixture
def in_precisions(tool, exported, image, tmp_path):
    """Run a classifier's linear layer: ``in_precisions(runtime)(precision)``."""

    def prepare(runtime, *layers):
        needs(runtime)
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 20, 32, 32), *layers).eval()
        images = torch.rand(1, 3, SIDE, SIDE)
        path = RUNTIMES[runtime].convert(network, images, tmp_path / runtime)
        shutil.copy(exported('classifier') / 'a.onnx.json', f'{path}.json')
        return lambda *args: tool.open_model(path, 1, *args)[0](images.numpy())[0]

    return prepare


def test_precisions_of_ncnn(in_precisions, monkeypatch):
    ncnn = pytest.importorskip('ncnn')
    run = in_precisions('ncnn', nn.Flatten(), nn.Linear(320, 20))
    expected = run()
    assert 1e-4 < np.abs(run('bf16') - expected).max() < 0.1
    if ncnn.cpu_support_arm_asimdhp() or ncnn.cpu_support_x86_avx2():
        assert 1e-6 < np.abs(run('f16') - expected).max() < 1e-2
    monkeypatch.setattr(ncnn, 'cpu_support_arm_asimdhp', lambda: 0)
    message = 'cannot be opened: ValueError: ncnn cannot compute .* in f16'
    with pytest.raises(ValueError, match=f'{message}.*no linear layer'):
        in_precisions('ncnn')('f16')


def test_precisions_of_openvino(in_precisions, monkeypatch):
    openvino = pytest.importorskip('openvino')
    run = in_precisions('openvino')
    for known in (['FP32'], ['FP32', 'BF16']):
        monkeypatch.setattr(openvino.Core, 'get_property', lambda *args, x=known: x)
        message = f'OpenVINO has no f16 on this CPU, only {", ".join(known)}$'
        with pytest.raises(ValueError, match=message):
            run('f16')
    assert np.abs(run('bf16') - run()).max() < 0.1


def test_precisions_that_a_runtime_lacks(tool, exported, image):
    args = [str(exported('classifier') / 'a.onnx'), str(image), '--precision', 'bf16']
    with pytest.raises(ValueError, match='a.onnx: onnxruntime computes in f32, not in'):
        tool.main(args)


def test_exit_status(tmp_path):
    """0 or 1 with a line that says why, 2 for wrong arguments."""
    tool = load('run').__file__
    for args, status, message in [
        (['none.onnx', 'a.png'], 1, 'no such model: none.onnx'),
        (['none.onnx'], 2, 'required: IMAGE'),
        (['none.onnx', 'a.png', '--threads', '-1'], 2, 'must be at least 0, got -1'),
    ]:
        done = subprocess.run(
            [sys.executable, tool, *args], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == status and re.search(message, done.stderr)
        assert 'Traceback' not in done.stderr
