"""evaluate.py: an exported network's metrics are those of the model it was made of."""

import re
from functools import partial

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmghostnetv2 import config_path
from mmghostnetv2.deployment.metadata import describe, save_metadata
from mmghostnetv2.deployment.networks import deployable
from mmghostnetv2.deployment.runtimes import RUNTIMES
from mmghostnetv2.deployment.to_onnx import to_onnx

from ..conftest import ROOT
from ..test_deployment.conftest import make_model, read_pictures
from .conftest import load_tool

pytest.importorskip('onnxruntime', reason='runs the files')


@pytest.fixture(scope='module')
def tool():
    return load_tool(ROOT / 'tools' / 'deployment' / 'evaluate.py')


def export(model, path, size, preprocess, output='predictions'):
    network = deployable(model, output, preprocess)
    shape = (1, 3, *size)
    to_onnx(network, shape, path)
    save_metadata(describe(model, network, output, shape), path)
    return path


@pytest.fixture(scope='module')
def classifier(digits, coco_mini, tmp_path_factory):
    """Config, model and file of a classifier for the small set of digits."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('classifier')
    config = Config.fromfile(config_path('ghostnetv2_100_digits'))
    dataset = config.test_dataloader.dataset
    dataset.data_root, dataset.pipeline[1].scale = f'{digits}/classification', 96
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    model = make_model(config, read_pictures(coco_mini, (96, 96)))
    config.dump(folder / 'config.py')
    path = export(model, folder / 'model.onnx', (96, 96), False)
    return folder / 'config.py', model, path


def test_classifier(tool, classifier, tmp_path, capsys):
    """The whole tool; the library's own test gives the same accuracy."""
    config, model, path = classifier
    other = tmp_path / 'other.onnx'
    export(model, other, (96, 96), True)
    tool.main([str(config), str(path), str(other), '--rounds', '2'])
    lines = capsys.readouterr().out.splitlines()
    header, _, first, second = lines[-4:]
    assert header == '| file | accuracy/top1 | ms | ratio |'
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner.model.load_state_dict(model.state_dict())
    expected = runner.test()['accuracy/top1']
    assert 0 < expected < 100
    assert first.startswith(f'| {path} | {expected:.3f} | ')
    assert second.startswith(f'| {other} | {expected:.3f} | ')
    assert first.endswith(' | 1.000 |')
    assert re.fullmatch(r'\| .* \| [\d.]+ \| [\d.]+ \|', second)


def test_bad_arguments(tool, classifier, tmp_path, capsys):
    config, model, path = classifier
    dense = tmp_path / 'features.onnx'
    export(model, dense, (96, 96), False, output='features')
    large = tmp_path / 'large.onnx'
    export(model, large, (128, 128), False)
    lonely = tmp_path / 'lonely.onnx'
    lonely.touch()
    for arguments, message in {
        (config, tmp_path / 'none.onnx'): 'no such file: .*none.onnx$',
        (config, lonely): 'no such file: .*lonely.onnx.json',
        (config, config): 'config.py is of an unknown format; .*.onnx, .xml',
        (config, dense): 'features.onnx returns no scores of classes',
        (config, large): r'images of \(96, 96\) pixels, the file takes \(128, 128\)',
        (tmp_path, path): 'no such config',
        (config, path, '--rounds', '0'): '--rounds must be at least 1',
    }.items():
        with pytest.raises(SystemExit) as caught:
            tool.main([*map(str, arguments)])
        assert re.search(message, f'{capsys.readouterr().err}{caught.value}')


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
