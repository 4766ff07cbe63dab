"""evaluate.py: an exported network's metrics are those of the model it was made of."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmghostnetv2 import config_path
from mmghostnetv2.deployment.export import export_model
from mmghostnetv2.deployment.runtimes import RUNTIMES

from .conftest import load, make_model, read_pictures

pytest.importorskip('onnxruntime', reason='runs the files')


@pytest.fixture(scope='module')
def tool():
    return load('evaluate')


@pytest.fixture(scope='module')
def classifier(digits, coco_mini, tmp_path_factory):
    """Config, model and file of a classifier for the small set of digits."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('classifier')
    config = Config.fromfile(config_path('ghostnetv2_100_digits'))
    config.model.backbone.type = 'ShortGhostNetV2'
    dataset = config.test_dataloader.dataset
    dataset.data_root, dataset.pipeline[1].scale = f'{digits}/classification', 96
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    model = make_model(config, read_pictures(coco_mini, (96, 96)))
    config.dump(folder / 'config.py')
    path = folder / 'model.onnx'
    export_model(model, path, (96, 96))
    return folder / 'config.py', model, path


def test_classifier(tool, classifier, tmp_path, capsys):
    """The whole tool; the library's own test gives the same accuracy."""
    config, model, path = classifier
    other = tmp_path / 'other.onnx'
    export_model(model, other, (96, 96), preprocess=True)
    tool.main([str(config), str(path), str(other), '--rounds', '2'])
    lines = capsys.readouterr().out.splitlines()
    header, _, first, second = lines[-4:]
    assert header == '| file | accuracy/top1 | ms | ratio |'
    metrics = library_metrics(Config.fromfile(config), model, tmp_path / 'work')
    expected = metrics['accuracy/top1']
    assert 0 < expected < 100
    assert first.startswith(f'| {path} | {expected:.3f} | ')
    assert second.startswith(f'| {other} | {expected:.3f} | ')
    assert first.endswith(' | 1.000 |')
    assert re.fullmatch(r'\| .* \| [\d.]+ \| [\d.]+ \|', second)


def library_metrics(config, model, folder):
    config.work_dir = str(folder)
    runner = Runner.from_cfg(config)
    runner.model.load_state_dict(model.state_dict())
    return runner.test()


def test_segmentor(tool, digits, coco_mini, tmp_path, capsys):
    """The library's own mIoU, on pictures of two sizes."""
    pytest.importorskip('mmseg')
    config = Config.fromfile(config_path('fpn_ghostnetv2_digits'))
    config.model.backbone.type = 'ShortGhostNetV2'
    loader = config.test_dataloader
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    folder = tmp_path / 'segmentation'
    shutil.copytree(f'{digits}/segmentation', folder)
    loader.dataset.data_root = str(folder)
    for kind in 'images', 'annotations':
        path = sorted((folder / kind / 'validation').iterdir())[0]
        with Image.open(path) as image:
            image.crop((0, 0, 64, 96)).save(path)
    model = make_model(config, read_pictures(coco_mini, (96, 96)))
    config.dump(tmp_path / 'config.py')
    path = tmp_path / 'model.onnx'
    export_model(model, path, (96, 96), dynamic=True)
    tool.main([str(tmp_path / 'config.py'), str(path), '--rounds', '1'])
    header, _, row = capsys.readouterr().out.splitlines()[-3:]
    expected = library_metrics(config, model, tmp_path / 'work')
    assert header.split(' | ')[1:-2] == [*expected]
    assert row.split(' | ')[1:-2] == [f'{value:.3f}' for value in expected.values()]
    assert expected['mIoU'] > 0


def test_bad_arguments(tool, classifier, tmp_path, capsys):
    config, model, path = classifier
    meta = json.loads(Path(f'{path}.json').read_text())
    changed = dict(
        features=dict(output='features'),
        large=dict(input={**meta['input'], 'shape': [1, 3, 128, 128]}),
        small=dict(input={**meta['input'], 'shape': [1, 3, 64, 64]}),
        other=dict(classes=['a', 'b']),
    )
    for name, change in changed.items():
        changed[name] = Path(shutil.copy(path, tmp_path / f'{name}.onnx'))
        Path(f'{changed[name]}.json').write_text(json.dumps(meta | change))
    lonely = tmp_path / 'lonely.onnx'
    lonely.touch()
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no model')
    Path(f'{broken}.json').write_text(json.dumps(meta))
    unreadable = tmp_path / 'unreadable.onnx'
    shutil.copy(path, unreadable)
    Path(f'{unreadable}.json').write_text('{')
    detector = config_path('yolov3_ghostnetv2_320_digits')
    configs = dict(
        syntax='model = dict(',
        empty='a = 1',
        unknown="model = dict(type='Nope')",
        untested=f"_base_ = '{config}'\ntest_dataloader = test_evaluator = None\n"
        'test_cfg = None',
    )
    for name, text in configs.items():
        configs[name] = tmp_path / f'{name}.py'
        configs[name].write_text(text)
    for arguments, message in {
        (config, tmp_path / 'none.onnx'): 'no such file: .*none.onnx',
        (config, lonely): 'no such file: .*lonely.onnx.json',
        (config, broken): 'broken.onnx: ',
        (config, unreadable): 'unreadable.onnx.json is not a description of a model',
        (config, changed['other']): 'other.onnx by .* has 2 classes, the data 10$',
        (detector, path): 'model.onnx by .* for classification, .* for detection$',
        (configs['syntax'], path): 'syntax.py: SyntaxError: ',
        (configs['empty'], path): 'by .*empty.py: .* has no model',
        (configs['unknown'], path): 'Nope is not in the ',
        (configs['untested'], path): 'by .*untested.py: .* has no data and no metric',
        (config, config): 'config.py is of an unknown format; .*.onnx, .xml',
        (
            config,
            changed['features'],
        ): 'features.onnx has the output features, not ',
        (config, changed['large']): r'\(96, 96\) pixels, the file takes \(128, 128\)',
        (config, changed['small']): r'\(96, 96\) pixels, the file takes \(64, 64\)',
        (tmp_path, path): f'{tmp_path}: ValueError: no config is named',
    }.items():
        with pytest.raises(RuntimeError, match=f'(?s){message}'):
            tool.main([*map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        tool.main([str(config), str(path), '--rounds', '0'])
    assert caught.value.code == 2
    assert '--rounds: must be a whole number of at least 1' in capsys.readouterr().err


def predict_boxes(tool, shape, ori_shape, dynamic=False, clip=True, **metainfo):
    """Predict, for an image (H, W) of a picture, what goes over its edge."""
    DetDataSample = pytest.importorskip('mmdet.structures').DetDataSample
    seen = []

    def session(images):
        seen.append(images.shape)
        dets = np.array([[[-1, 2, 7.5, 7, 0.75], [0, 0, 0, 0, 0]]], 'f4')
        return [dets, np.array([[3, -1]])]

    form = dict(shape=[1, 3, 8, 8], dynamic=dynamic, preprocess=False)
    meta = dict(task='detection', input=form, clip=clip)
    sample = DetDataSample(metainfo=dict(ori_shape=ori_shape, **metainfo))
    model = SimpleNamespace(data_preprocessor=lambda data, training: data)
    data = dict(inputs=torch.zeros(1, 3, *shape), data_samples=[sample])
    (sample,) = tool.predict(model, session, meta, data)
    found = sample.pred_instances
    assert found.labels.tolist() == [3] and found.scores.tolist() == [0.75]
    assert found.bboxes.dtype == torch.float32
    return found.bboxes.tolist(), seen


def test_boxes_are_clipped_to_the_picture(tool):
    """Not to what the file pads it to; where the library does so."""
    resized = dict(scale_factor=(0.5, 0.25))
    for clip, expected in ((True, [0, 8, 10, 20]), (False, [-2, 8, 15, 28])):
        boxes, seen = predict_boxes(tool, (5, 5), (20, 10), clip=clip, **resized)
        assert boxes == [expected] and seen == [(1, 3, 8, 8)]
    # a pipeline that does not resize
    assert predict_boxes(tool, (6, 8), (6, 8))[0] == [[0, 2, 7.5, 6]]


def test_labels_are_enlarged_without_the_padding(tool):
    SegDataSample = pytest.importorskip('mmseg.structures').SegDataSample
    labels = np.arange(16).reshape(1, 4, 4)
    form = dict(shape=[1, 3, 4, 4], dynamic=False, preprocess=False)
    meta = dict(task='segmentation', input=form)
    sample = SegDataSample(metainfo=dict(img_shape=(2, 3), ori_shape=(4, 6)))
    model = SimpleNamespace(data_preprocessor=lambda data, training: data)
    data = dict(inputs=torch.zeros(1, 3, 2, 3), data_samples=[sample])
    (sample,) = tool.predict(model, lambda images: [labels], meta, data)
    rows = [0, 0, 1, 1, 2, 2], [4, 4, 5, 5, 6, 6]
    expected = [[rows[0], rows[0], rows[1], rows[1]]]
    assert sample.pred_sem_seg.data.tolist() == expected


def test_dynamic_files_take_every_size(tool):
    for shape in ((5, 6), (10, 9)):
        _, seen = predict_boxes(tool, shape, shape, dynamic=True)
        assert seen == [(1, 3, *shape)]
    with pytest.raises(ValueError, match=r'\(10, 9\) pixels, the file takes \(8, 8\)'):
        predict_boxes(tool, (10, 9), (10, 9))


def test_which_runtime(tool, classifier, monkeypatch):
    """OpenVINO reads ONNX files as well."""
    _, _, path = classifier
    opened = []
    for name in ('onnxruntime', 'openvino'):
        fake = partial(lambda name, *args: opened.append(name), name)
        monkeypatch.setitem(RUNTIMES, name, RUNTIMES[name]._replace(open=fake))
    for openvino in (False, True):
        tool.open_file(path, 1, openvino)
    assert opened == ['onnxruntime', 'openvino']


def test_precisions(tool, classifier, monkeypatch, capsys):
    """Each file in each of them, and none where one is missing."""
    config, _, path = classifier
    args = [str(config), str(path), '--rounds', '1', '--precision', 'f32', 'bf16']
    said = 'model.onnx: ValueError: ONNX Runtime computes in f32, not in bf16$'
    with pytest.raises(RuntimeError, match=said):
        tool.main(args)
    right, opened = RUNTIMES['onnxruntime'], []

    def open_in(path, threads, *precision):
        opened.append(precision)
        return right.open(path, threads)

    fake = right._replace(open=open_in, precisions=('f32', 'bf16'))
    monkeypatch.setitem(RUNTIMES, 'onnxruntime', fake)
    tool.main(args)
    assert opened == [(), ('bf16',)]
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith(f'| {path} | ') and first.endswith(' | 1.000 |')
    assert second.startswith(f'| {path} (bf16) | ')
    assert first.split(' | ')[1] == second.split(' | ')[1]


def test_a_metric_that_a_file_lacks(tool):
    """COCO's are left out where no box is found."""
    header, _, *rows = tool.tabulate({'a': {}, 'b': dict(AP=0.5)}, dict(a=[1], b=[2]))
    assert header == '| file | AP | ms | ratio |'
    assert rows == ['| a | none | 1000.00 | 1.000 |', '| b | 0.500 | 2000.00 | 2.000 |']
