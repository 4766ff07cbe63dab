"""Mistakes of users, each in every tool: one line that names it, and nothing written.

The tools run in this process, with a small network.
"""

import re
import socket

import pytest

from ..conftest import ROOT
from .conftest import TOOLS, load_tool

pytest.importorskip('mmdet', reason='what the tools import')
pytest.importorskip('mmpretrain', reason='what the tools import')
pytest.importorskip('sklearn', reason='what the tools import')
pytest.importorskip('onnxruntime', reason='what runs the exported model')

# Arguments with which each tool works; a word in braces is an input or an output.
ARGUMENTS = {
    'analysis_tools/benchmark': '{config} --images 1x32 --rounds 1 --out-dir {folder}',
    'analysis_tools/compare_ghostnetv3': '',
    'analysis_tools/compare_long_range': '',
    'analysis_tools/get_flops': '{config} --shape 32',
    'analysis_tools/paper_tables': '--tables 8 --out-dir {folder}',
    'compile_mmcv': '',
    'datasets/check_dataset': '{config}',
    'datasets/make_digit_pairs': '--train 1 --singles 1 --val 1 --out-dir {folder}',
    'datasets/make_digits': '--train 1 --val 1 --cls-copies 1 --out-dir {folder}',
    'deployment/evaluate': '{config} {model}',
    'deployment/export': (
        '{config} {checkpoint} --shape 32 --check --image {picture} --out {out}.onnx'
    ),
    'deployment/run': '{model} {picture} --out {out}.json',
    'model_converters/ghostnetv2_to_mmpretrain': '{checkpoint} --out {out}.pth',
    'model_converters/publish_model': '{checkpoint} --out {out}.pth',
    'model_converters/reparameterize_model': '{config} {checkpoint} --out {out}.pth',
    'quickstart': '',
    'reliability/fuzz_checkpoints': '--files 1 --out {out}.json',
    'reliability/kill_and_resume': '--kills 1 --out {out}.json',
    'reliability/mutate': '--sample 1 --out {out}.json',
    'setup_env': '',
    'test': '{config} {checkpoint} --out {out}.pkl --work-dir {folder}',
    'train': '{config} --resume {checkpoint} --work-dir {folder}',
    'visualization/contact_sheet': '{truth} {pictures} {found} --out {out}.png',
    'visualization/dfc_attention': '{config} {checkpoint} {picture} --out {out}.png',
}
CONFIG = f"""
_base_ = {str(ROOT / 'configs/ghostnetv2_100_in1k.py')!r}
# Two runs that a process starts in the same second would share one visualizer, and the
# second would write into the first one's folder.
visualizer = dict(vis_backends=[])
model = dict(
    backbone=dict(widen_factor=0.1),
    head=dict(in_channels=96, mid_channels=[8], num_classes=3),
)
"""
# mmengine begins its log before it builds the network and reads the data.
LOGS = (
    r'/new(/\d+_\d+(/vis_data|/vis_data/config\.py|/\d+_\d+\.log)?|/tiny\.py'
    r'|/\.training\.lock)?$'
)
# Sends itself Ctrl-C when the tool calls a function, which has written half a file.
INTERRUPTED = """
import os, runpy, signal, sys, time
from pathlib import Path
import {module} as module

def interrupt(*args, **kwargs):
    if {writes}:
        Path(args[1]).write_bytes(b'half')
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

# A shell starts its background jobs with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
module.{function} = interrupt
sys.argv = sys.argv[1:]
sys.path.insert(0, {root!r})
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Return what the words in braces stand for, {name: path}, without a mistake."""
    import torch
    from PIL import Image

    from mmghostnetv2 import init_model

    folder = tmp_path_factory.mktemp('inputs')
    names = dict(config='tiny.py', checkpoint='tiny.pth', model='tiny.onnx')
    names |= dict(picture='pictures/1.png', pictures='pictures')
    names |= dict(truth='truth.json', found='found.json')
    paths = {word: folder / name for word, name in names.items()}
    paths['config'].write_text(CONFIG)
    weights = init_model(paths['config']).state_dict()
    meta = dict(epoch=0, iter=0)  # of a training, so that it can be resumed
    torch.save(dict(meta=meta, state_dict=weights), paths['checkpoint'])
    paths['pictures'].mkdir()
    Image.effect_noise((40, 30), 50).save(paths['picture'])
    truth = '{"images": [{"id": 1, "file_name": "1.png"}], "annotations": [], '
    paths['truth'].write_text(truth + '"categories": [{"id": 1, "name": "a"}]}')
    paths['found'].write_text('[]')
    export = load_tool(ROOT / 'tools' / 'deployment' / 'export.py')
    arguments = ARGUMENTS['deployment/export'].format(**paths, out=folder / 'tiny')
    export.main(arguments.split())
    return paths


@pytest.fixture
def fails(run_here, inputs, tmp_path, monkeypatch):
    """Run a tool with one mistake, and check how it fails; return its exit status.

    ``fails(name, names, *more, **wrong)``: ``wrong`` replaces inputs and outputs, and
    ``names`` is what the message must contain.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMGHOSTNETV2_DEBUG', raising=False)

    def run(name, names, *more, **wrong):
        words = inputs | dict(out=tmp_path / 'new' / 'a', folder=tmp_path / 'new')
        arguments = ARGUMENTS[name].format(**words | wrong).split()
        before = set(tmp_path.rglob('*'))
        status, _, err = run_here(f'tools/{name}.py', *arguments, *more)
        assert status in (1, 2) and 'Traceback' not in err, err
        last = err.splitlines()[-1]
        assert re.match('error: ' if status == 1 else r'\w+\.py: error: ', last), err
        assert str(names) in last
        made = set(tmp_path.rglob('*')) - before
        assert not [path for path in made if not re.search(LOGS, str(path))]
        assert name in ('train', 'test') or not made
        return status

    return run


def tools_with(*words):
    """Parametrize by all pairs of a tool and one of these words that it takes."""
    pairs = [(name, word) for name in ARGUMENTS for word in words]
    pairs = [(name, word) for name, word in pairs if f'{{{word}}}' in ARGUMENTS[name]]
    return pytest.mark.parametrize(('name', 'word'), pairs)


def test_no_tool_is_left_out():
    assert sorted(f'tools/{name}.py' for name in ARGUMENTS) == TOOLS


DAMAGES = {
    'missing': None,
    'a folder': None,
    'empty': lambda content: b'',
    # Two thirds alone would end the config between two lines on some paths of the
    # checkout. Its last 60 bytes are inside of a bracket.
    'cut off': lambda content: content[: max(len(content) * 2 // 3, len(content) - 60)],
    'noise': lambda content: bytes(i * i % 251 for i in range(len(content))),
    'HTML': lambda content: b'<!DOCTYPE html><html>Not found</html>',
}


@pytest.mark.parametrize('damage', DAMAGES)
@tools_with('config', 'checkpoint', 'model', 'picture', 'truth', 'found')
def test_damaged_files(fails, inputs, tmp_path, name, word, damage):
    good = inputs[word]
    bad = tmp_path / good.name
    if DAMAGES[damage]:
        bad.write_bytes(DAMAGES[damage](good.read_bytes()))
    elif damage == 'a folder':
        bad.mkdir()
    if word == 'model':  # the description beside it is not damaged
        sidecar = good.with_name(f'{good.name}.json')
        bad.with_name(sidecar.name).write_text(sidecar.read_text())
    assert fails(name, bad, **{word: bad}) == 1


@pytest.mark.parametrize(
    ('kept', 'lacking'),
    [
        (lambda saved: saved['state_dict'], 'epoch and iter'),
        (lambda saved: saved | {'meta': None}, 'epoch and iter'),
        (lambda saved: saved | {'meta': {'epoch': 1}}, 'iter'),
    ],
    ids=['plain', 'no meta', 'no iter'],
)
def test_weights_alone_are_not_resumed(fails, inputs, tmp_path, kept, lacking):
    import torch

    path = tmp_path / 'weights.pth'
    torch.save(kept(torch.load(inputs['checkpoint'])), path)
    said = (
        f'error: {path} cannot be resumed: it holds no {lacking} of a training. To '
        'start a new training from its weights, do not resume but set load_from: '
        f'--cfg-options load_from={path}'
    )
    assert fails('train', said, checkpoint=path) == 1


@tools_with('pictures')
def test_a_missing_folder(fails, tmp_path, name, word):
    assert fails(name, tmp_path / 'none' / '1.png', pictures=tmp_path / 'none') == 1


@tools_with('model')
@pytest.mark.parametrize('text', ['', '[]', '{}', '<html>'])
def test_damaged_descriptions(fails, inputs, tmp_path, name, word, text):
    model = tmp_path / inputs['model'].name
    model.write_bytes(inputs['model'].read_bytes())
    model.with_name(f'{model.name}.json').write_text(text)
    assert fails(name, model, model=model) == 1


@tools_with('checkpoint')
def test_a_dead_address(fails, name, word, monkeypatch, tmp_path_factory):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path_factory.mktemp('home')))
    with socket.socket() as bound:  # nobody listens there
        bound.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{bound.getsockname()[1]}/a.pth'
        assert fails(name, url, checkpoint=url) == 1


@tools_with('out', 'folder')
def test_an_output_below_a_file(fails, tmp_path, monkeypatch, name, word):
    """It is known before the work, which would be lost."""
    for work in ('analysis.count', 'arguments.init_model', 'init_model'):
        monkeypatch.setattr(f'mmghostnetv2.{work}', None)
    file = tmp_path / 'file'
    file.touch()
    assert fails(name, file, **{word: file / 'new' / 'a'}) == 1


@tools_with('out')
def test_an_output_that_is_no_file(fails, tmp_path, name, word):
    """Neither a folder nor a device, in whose place the file would be moved."""
    out, suffix = tmp_path / 'a', re.search(r'{out}(\.\w+)', ARGUMENTS[name])[1]
    path = out.with_suffix(suffix)
    path.mkdir()
    assert fails(name, path, '--force', out=out) == 1
    path.rmdir()
    path.symlink_to('/dev/full')
    assert fails(name, path, '--force', out=out) == 1
    assert path.is_symlink()


CHANGES = ['garbage', 'a.b.c=', '=1', 'a..b=1', 'a=[(1,2]', 'default_scope.b=1']


@pytest.mark.parametrize('change', CHANGES)
@tools_with('config')
def test_wrong_changes_of_the_config(fails, name, word, change):
    is_readable = change == 'default_scope.b=1'  # but it is text in the config
    names = 'default_scope.b' if is_readable else f'--cfg-options: {change}'
    assert fails(name, names, '--cfg-options', change) == 2 - is_readable


CONFIGS = {
    'its syntax': 'model = dict(',
    'no model': 'a = 1',
    'a model that is a number': 'model = 3',
    'an unknown model': "model = dict(type='Nothing')",
    'a missing base': "_base_ = 'missing.py'",
    'a missing module': 'import nothing',
}


@pytest.mark.parametrize('text', CONFIGS.values(), ids=CONFIGS)
@tools_with('config')
def test_wrong_configs(fails, tmp_path, name, word, text):
    config = tmp_path / 'wrong.py'
    config.write_text(text)
    assert fails(name, config, config=config) == 1


@pytest.mark.parametrize('name', ['deployment/evaluate', 'test', 'train'])
def test_missing_data(fails, name):
    assert fails(name, 'tiny.py: FileNotFoundError: [Errno 2] No such file or') == 1


def test_a_damaged_training_picture(fails, tmp_path):
    """A worker process finds it; its traceback is not part of the message."""
    config, picture = tmp_path / 'tiny.py', tmp_path / 'data' / 'cat' / '1.png'
    picture.parent.mkdir(parents=True)
    picture.write_text('no picture')
    loader = f"""
val_dataloader = val_cfg = val_evaluator = None
train_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root={str(tmp_path / 'data')!r},
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
"""
    config.write_text(CONFIG + loader)
    assert fails('train', picture, config=config, checkpoint='auto') == 1


@pytest.mark.parametrize('name', ARGUMENTS)
def test_wrong_numbers(fails, run_here, name):
    text = run_here(f'tools/{name}.py', '--help')[1]
    options = re.findall(
        r'^  (--[\w-]+) (?:N|X|SCORE|H|BATCHxSIDE|SEEDS)(?!\S)', text, re.M
    )
    for option in options:
        for wrong in ('-1', 'many', '1e400', 'nan'):
            assert fails(name, option, f'{option}={wrong}') == 2


def test_images_that_need_too_much_memory(fails):
    side = '9999999'
    assert fails('analysis_tools/benchmark', side, '--images', f'1x{side}') == 1
    assert fails('analysis_tools/get_flops', side, '--shape', side) == 1


@pytest.mark.parametrize('device', ['cuda', 'tpu'])
def test_a_missing_device(fails, monkeypatch, device):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert fails('analysis_tools/benchmark', '--device', '--device', device) == 2


@pytest.mark.parametrize(
    ('name', 'module', 'function'),
    [
        ('analysis_tools/paper_tables', 'mmghostnetv2.analysis', 'count'),
        ('deployment/run', 'PIL.ImageOps', 'exif_transpose'),
        ('model_converters/publish_model', 'torch', 'save'),
        ('model_converters/ghostnetv2_to_mmpretrain', 'torch', 'save'),
    ],
)
def test_an_interrupt(run_script, inputs, released, tmp_path, name, module, function):
    """In a process of its own, because it could end the one that runs the tests."""
    import torch

    tool, out = ROOT / f'tools/{name}.py', tmp_path / 'new'
    words = inputs | dict(out=out / 'a', folder=out, checkpoint=tmp_path / 'a.pth')
    torch.save(dict(meta={}, state_dict=released), words['checkpoint'])
    script = tmp_path / 'script.py'
    values = dict(module=module, function=function, root=str(ROOT))
    script.write_text(INTERRUPTED.format(writes='to_mmpretrain' in name, **values))
    before = set(tmp_path.rglob('*'))
    arguments = ARGUMENTS[name].format(**words).split()
    printed = run_script(script, tool, *arguments, expect=130)
    assert printed.splitlines()[-1] == 'interrupted'
    assert 'Traceback' not in printed
    assert set(tmp_path.rglob('*')) == before
