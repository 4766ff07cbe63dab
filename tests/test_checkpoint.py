"""Every layout of file that weights come in, and files that must be refused."""

import copy
import io
import os
import pickle
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmghostnetv2 import safe_loading
from mmghostnetv2.apis import config_path
from mmghostnetv2.checkpoint import partial_loading, read_weights
from mmghostnetv2.models import GhostNet, GhostNetV2


@pytest.fixture
def logged(monkeypatch):
    """Lines that mmengine's logger was given."""
    lines = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(),
        'callHandlers',
        lambda record: lines.append(record.getMessage()),
    )
    return lines


def prefixed(weights, prefix):
    return {prefix + key: value for key, value in weights.items()}


def doubled(weights):
    return {key: 2 * value for key, value in weights.items()}


def pretrained(checkpoint, cls=GhostNetV2, prefix=None, **kwargs):
    """Build and initialise a backbone, as a detector does."""
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))
    if prefix is not None:
        init_cfg['prefix'] = prefix
    network = MODELS.build(dict(type=cls.__name__, init_cfg=init_cfg, **kwargs))
    network.init_weights()
    return network


def assert_loaded(network, weights):
    for key, value in network.state_dict().items():
        assert torch.equal(value, weights[key]), key


LAYOUTS = {
    'plain': lambda w: w,
    'state_dict': lambda w: {'state_dict': w, 'epoch': 450, 'arch': 'ghostnetv2'},
    'module': lambda w: prefixed(w, 'module.'),
    'state_dict of module': lambda w: {'state_dict': prefixed(w, 'module.')},
    'EMA beside it': lambda w: {'state_dict': doubled(w), 'state_dict_ema': w},
}


@pytest.mark.parametrize('layout', list(LAYOUTS))
@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_released_layouts(layout, prefix, released, tmp_path, logged):
    """Also with the prefix that files of one's own training need."""
    path = tmp_path / 'ck_ghostnetv2_10.pth.tar'
    torch.save(LAYOUTS[layout](released), path)
    assert_loaded(pretrained(path, prefix=prefix), released)
    assert not any('do not match' in line for line in logged)


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_safetensors(prefix, released, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason="timm's format")
    path = tmp_path / 'model.safetensors'
    safetensors.save_file(released, path)
    assert_loaded(pretrained(path, prefix=prefix), released)


def test_timms_own_weights(tmp_path):
    timm = pytest.importorskip('timm', reason='the peer of this test')
    peer = timm.create_model('ghostnet_100')
    torch.save(peer.state_dict(), tmp_path / 'ghostnet.pth')
    assert_loaded(pretrained(tmp_path / 'ghostnet.pth', GhostNet), peer.state_dict())


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_own_training(prefix, released, tmp_path):
    weights = prefixed(released, 'backbone.') | {'head.fc.weight': torch.rand(10, 1280)}
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / 'epoch_12.pth')
    network = pretrained(tmp_path / 'epoch_12.pth', prefix=prefix)
    assert_loaded(network, released)


def test_url(released, served, tmp_path):
    torch.save({'state_dict': released}, tmp_path / 'ck_ghostnetv2_10.pth.tar')
    url = served + 'ck_ghostnetv2_10.pth.tar'
    assert_loaded(pretrained(url), released)
    (tmp_path / 'ck_ghostnetv2_10.pth.tar').unlink()
    assert_loaded(pretrained(url), released)  # downloaded once
    with pytest.raises(RuntimeError, match=f'download {served}none.pth: .*404'):
        pretrained(served + 'none.pth')


def test_damaged_download(served, tmp_path):
    """The message names the kept file; without it the next run downloads again."""
    (tmp_path / 'weights.pth').write_text('<html>Please log in</html>')
    with pytest.raises(RuntimeError, match='remove it') as caught:
        read_weights(served + 'weights.pth')
    (kept,) = (tmp_path / 'home').rglob('*weights.pth')
    assert str(kept) in str(caught.value)
    assert 'weights_only' not in str(caught.value)  # torch's advice, which is unsafe
    kept.unlink()
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.pth')
    assert read_weights(served + 'weights.pth') == {'a': torch.ones(1)}


def test_file_for_a_machine_without_network(served, tmp_path):
    """The message says where to put it."""
    with pytest.raises(RuntimeError, match='save the file by hand as ') as caught:
        read_weights(served + 'weights.pth')
    path = re.search(r'save the file by hand as (\S+), or', str(caught.value))[1]
    torch.save({'a': torch.ones(1)}, path)
    assert read_weights(served + 'weights.pth') == {'a': torch.ones(1)}


@pytest.mark.parametrize('name', ['model.safetensors', 'weights.pth'])
def test_urls_with_the_same_file_name(name, served, tmp_path):
    """Each has its own download; a file of that name from elsewhere is not used."""
    if name.endswith('safetensors'):
        save = pytest.importorskip('safetensors.torch', reason="timm's").save_file
    else:
        save = torch.save
    stranger = tmp_path / 'home' / 'hub' / 'checkpoints' / name
    stranger.parent.mkdir(parents=True)
    save({'a': torch.zeros(1)}, stranger)
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        save({'a': torch.full((1,), value)}, tmp_path / str(value) / name)
    for value in (1, 2, 1):
        weights = read_weights(f'{served}{value}/{name}?download=true')
        assert weights == {'a': torch.full((1,), value)}


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_bar(terminal, served, tmp_path, monkeypatch):
    """It is drawn where stderr is a terminal, whatever stdin is."""

    class Stderr(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, 'stderr', Stderr())
    monkeypatch.setattr(os, 'isatty', lambda descriptor: not terminal)
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.pth')
    read_weights(served + 'weights.pth')
    assert ('100%' in sys.stderr.getvalue()) == terminal


def test_two_processes_download(run_script, served, tmp_path):
    """Neither waits for the other where the download fails: both say why."""
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.pth')
    script = tmp_path / 'process.py'
    script.write_text(f"""
import sys
from torch import distributed
from mmghostnetv2.checkpoint import load_from_url
store = distributed.FileStore({str(tmp_path / 'store')!r}, 2)
rank = int(sys.argv[1])
distributed.init_process_group('gloo', store=store, rank=rank, world_size=2)
print('loaded', load_from_url('{served}weights.pth'))
try:
    load_from_url('{served}none.pth')
except OSError as error:
    print('raised', error)
distributed.destroy_process_group()
""")
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(partial(run_script, script), range(2)))
    failure = f'cannot download {served}none.pth: .*404.*init_cfg.checkpoint=FILE'
    for output in outputs:
        assert "loaded {'a': tensor([1.])}" in output
        assert re.search(failure, output)


@pytest.mark.parametrize(
    ('name', 'cls', 'file'),
    [
        ('ghostnetv2-100', GhostNetV2, 'GhostNetV2/ck_ghostnetv2_10.pth.tar'),
        ('ghostnetv2_100_in1k', GhostNetV2, 'GhostNetV2/ck_ghostnetv2_10.pth.tar'),
        ('ghostnet-100_3rdparty_in1k', GhostNet, 'models/state_dict_73.98.pth'),
    ],
)
def test_released_weights_by_name(name, cls, file, tmp_path, monkeypatch):
    """By the names of metafile.yml, and without their ending."""
    weights = doubled(cls().state_dict())
    urls = []

    def download(url, path, **kwargs):
        urls.append(url)
        torch.save(weights, path)

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    assert_loaded(pretrained(f'ghostnet://{name}', cls), weights)
    (url,) = urls
    assert url.startswith('https://github.com/huawei-noah/Efficient-AI-Backbones/')
    assert url.endswith(file)


def test_unknown_name_of_released_weights():
    known = 'ghostnetv2-100, ghostnetv2-130, ghostnetv2-160, ghostnetv3-100, '
    with pytest.raises(RuntimeError, match=f"'ghostnetv2-10'; there are: {known}"):
        read_weights('ghostnet://ghostnetv2-10')


def test_stages_not_built_are_passed_over(released, tmp_path, logged):
    torch.save(released, tmp_path / 'weights.pth')
    network = pretrained(tmp_path / 'weights.pth', out_indices=(4, 6), output_stride=8)
    assert_loaded(network, released)
    assert not any('unexpected key' in line for line in logged)


def test_second_initialisation_keeps_what_was_loaded(released, tmp_path):
    """As where a detector's init_weights is called by hand and by the runner."""
    torch.save(released, tmp_path / 'weights.pth')
    network = pretrained(tmp_path / 'weights.pth', zero_init_residual=True)
    network.init_weights()
    assert_loaded(network, released)


def test_pretrained_comes_after_other_initialisers(released, tmp_path):
    torch.save(released, tmp_path / 'weights.pth')
    network = GhostNetV2(
        init_cfg=[
            dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth')),
            dict(type='Constant', layer='Conv2d', val=0.0),
        ]
    )
    network.init_weights()
    assert_loaded(network, released)


# ---- refused


def test_nothing_matched(released, tmp_path):
    torch.save(prefixed(released, 'backbone.'), tmp_path / 'epoch_12.pth')
    with pytest.raises(ValueError, match='epoch_12.pth .*prefix="backbone."'):
        pretrained(tmp_path / 'epoch_12.pth')


def test_prefix_of_another_part(released, tmp_path):
    torch.save({'neck.conv.weight': torch.rand(1)}, tmp_path / 'neck.pth')
    with pytest.raises(ValueError, match='nothing in .*neck.pth'):
        pretrained(tmp_path / 'neck.pth', prefix='neck.')


def count_short_conv(weights):
    return sum(
        'short_conv' in key and not key.endswith(('num_batches_tracked', 'total_ops'))
        for key in weights
    )


def test_weights_of_v1_in_v2(released, tmp_path):
    """Training would start from random attention."""
    v1 = {k: v for k, v in released.items() if 'short_conv' not in k}
    torch.save(v1, tmp_path / 'v1.pth')
    lacking = count_short_conv(GhostNetV2().state_dict())
    first = r'blocks.2.0.ghost1.short_conv.0.weight, .*, \.\.\.'
    with pytest.raises(
        ValueError, match=rf'v1.pth .* lacks {lacking} parameters \({first}\) and has 0'
    ):
        pretrained(tmp_path / 'v1.pth')


def test_weights_of_v2_in_v1(released, tmp_path):
    """The attention that they were trained with would be left out."""
    torch.save(released, tmp_path / 'v2.pth')
    first = r'blocks.2.0.ghost1.short_conv.0.weight, .*, \.\.\.'
    with pytest.raises(
        ValueError, match=rf'v2.pth .* lacks 0 parameters and has \d+ others \({first}'
    ):
        pretrained(tmp_path / 'v2.pth', GhostNet)


def test_other_width(released, tmp_path):
    torch.save(released, tmp_path / 'weights.pth')
    with pytest.raises(
        ValueError,
        match=r'different network or width: .*conv_stem.weight.*\[16, 3, .*\[20, 3, ',
    ):
        pretrained(tmp_path / 'weights.pth', widen_factor=1.3)


@pytest.mark.parametrize(
    'damage', [lambda b: b[: len(b) // 2], lambda b: b'', lambda b: b'<html>404</html>']
)
@pytest.mark.parametrize('name', ['damaged.pth', 'damaged.safetensors'])
def test_damaged_file(damage, name, released, tmp_path):
    pytest.importorskip('safetensors', reason='one of the two formats')
    torch.save(released, tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(RuntimeError, match=f'cannot read weights from .*{name}'):
        pretrained(tmp_path / name)


@pytest.mark.parametrize('name', ['none.pth', 'none.safetensors'])
def test_missing_file(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        pretrained(tmp_path / name)


@pytest.mark.parametrize('content', [[1, 2], {'epoch': 3}, {'state_dict': [1]}])
def test_no_weights_inside(content, tmp_path):
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(RuntimeError, match='odd.pth holds no state dict'):
        read_weights(str(tmp_path / 'odd.pth'))


# ---- safe loading


def test_training_checkpoint_round_trip(tmp_path):
    """All that mmengine's message hub holds comes back, weights-only."""
    hub = MessageHub('test_training_checkpoint_round_trip')
    for i in range(5):
        hub.update_scalar('train/loss', np.float32(i), count=2)
        hub.update_scalar('train/lr', 0.1 * i)
        hub.update_scalar('val/top1', torch.tensor(float(i)))
    hub.update_info('array', np.arange(3, dtype=np.int64))
    hub.update_info('number', np.float64(0.5))
    hub.update_info('flag', np.bool_(True))
    path = tmp_path / 'epoch_1.pth'
    torch.save({'message_hub': hub.state_dict(), 'state_dict': {}}, path)
    loaded = CheckpointLoader.load_checkpoint(str(path))['message_hub']
    buffer = loaded['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.mean() == pytest.approx(1.0) and buffer.current() == 4
    assert buffer.statistics('max', 3) == 4
    assert loaded['runtime_info']['array'].tolist() == [0, 1, 2]
    assert loaded['runtime_info']['number'] == 0.5


SCHEDULERS = [
    dict(type='ConstantLR', end=3),
    dict(type='CosineAnnealingLR', T_max=8),
    dict(type='CosineRestartLR', periods=[4, 4], restart_weights=[1, 1], eta_min=0),
    dict(type='ExponentialLR', gamma=0.9),
    dict(type='LinearLR', end=3),
    dict(type='MultiStepLR', milestones=[2, 3]),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=8),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=8, anneal_strategy='linear'),
    dict(type='PolyLR', end=3),
    dict(type='ReduceOnPlateauLR', monitor='loss'),
    dict(type='StepLR', step_size=2),
]


@pytest.mark.parametrize('cfg', SCHEDULERS, ids=lambda cfg: cfg['type'])
def test_schedules_are_resumed(cfg, tmp_path):
    """Half of a schedule, a checkpoint, and the rest goes on as without a break."""

    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, PARAM_SCHEDULERS.build({**cfg, 'optimizer': optimizer})

    def go_on(optimizer, scheduler, steps=3):
        for _ in range(steps):
            optimizer.step()
            metrics = ({'loss': 1.0},) if 'monitor' in cfg else ()
            scheduler.step(*metrics)
        return optimizer.param_groups[0]['lr']

    optimizer, scheduler = build()
    go_on(optimizer, scheduler)
    state = dict(optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
    torch.save(state, tmp_path / 'epoch_1.pth')
    resumed_optimizer, resumed = build()
    state = torch.load(tmp_path / 'epoch_1.pth')
    resumed.load_state_dict(state['scheduler'])
    resumed_optimizer.load_state_dict(state['optimizer'])
    assert go_on(resumed_optimizer, resumed) == go_on(optimizer, scheduler)


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
def test_names_of_numpy_1_and_2(package, tmp_path):
    """Checkpoints written under numpy 1 load under numpy 2 and the reverse."""
    written, renamed = tmp_path / 'written.pth', tmp_path / 'renamed.pth'
    torch.save({'x': HistoryBuffer([1.0, 2.0], [1, 1])}, written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(renamed, 'w') as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('data.pkl'):
                content, count = re.subn(
                    rb'numpy\._?core\.', f'{package}.'.encode(), content
                )
                assert count
            target.writestr(name, content)
    assert torch.load(renamed)['x'].mean() == 1.5


def test_whatever_other_code_loads_and_allows(tmp_path, monkeypatch):
    """Forks of mmengine load unsafely, and other programs empty torch's list."""
    torch.save({'state_dict': {}, 'log': HistoryBuffer([1.0], [1])}, tmp_path / 'a.pth')
    load, asked = torch.load, []

    def spy(*args, **kwargs):
        asked.append(kwargs.get('weights_only'))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, 'load', spy)
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        for _ in range(2):
            assert read_weights(str(tmp_path / 'a.pth')) == {}
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert asked == [True, True]


class Attack:
    """Calls ``function(*args)`` when unpickled."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Reduced:
    """Pickles as a call with a state, as numpy's objects do."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


ARRAY = np.arange(3.0)
RECONSTRUCT, EMPTY, (_, SHAPE, FLOAT, _, DATA) = ARRAY.__reduce__()
SCALAR = np.float64(1).__reduce__()[0]
OBJECTS = Reduced(np.dtype, ('O8', False, True), np.dtype('O').__reduce__()[2])
# an own dtype of numbers with the flags of objects
FLAGGED = Reduced(np.dtype, ('f8', False, True), (3, '|', None, None, None, 8, 8, 63))


@pytest.mark.parametrize(
    'array',
    [
        pytest.param(Reduced(*reduced), id=name)
        for name, reduced in {
            'pointer': (SCALAR, (OBJECTS, b'ABCDEFGH')),
            'pointers': (RECONSTRUCT, EMPTY, (1, (1,), OBJECTS, False, b'ABCDEFGH')),
            'objects': (RECONSTRUCT, EMPTY, (1, (1,), OBJECTS, False, [1])),
            'few bytes': (RECONSTRUCT, EMPTY, (1, (2**40,), FLOAT, False, DATA)),
            'overflow': (RECONSTRUCT, EMPTY, (1, (2**62, 4), FLOAT, False, b'')),
            'no bytes': (RECONSTRUCT, EMPTY, (1, (2**37,), FLOAT, False, 2**40)),
            'allocation': (np.ndarray, ((2**40,),)),
            'part of a number': (SCALAR, (FLOAT, b'ABC')),
            'other byte order': np.array([1.0], '>f8').__reduce__(),
            'text': np.array(['text']).__reduce__(),
            'structured': np.array([(1, 2)], 'i4,i4').__reduce__(),
        }.items()
    ],
)
def test_arrays_that_numpy_would_not_survive(array, tmp_path):
    """Neither a pointer nor more memory than the file has comes out of a file."""
    torch.save({'state_dict': {}, 'x': array}, tmp_path / 'evil.pth')
    with pytest.raises(RuntimeError, match='cannot read weights from .*evil.pth'):
        read_weights(str(tmp_path / 'evil.pth'))


def test_memory_that_a_tensor_may_share_is_not_freed(tmp_path):
    """A file may ask for the values of one array twice."""
    torch.save({'x': ARRAY}, tmp_path / 'a.pth')
    array = torch.load(tmp_path / 'a.pth')['x']
    with pytest.raises(pickle.UnpicklingError, match='not what numpy saves'):
        array.__setstate__((1, SHAPE, safe_loading._Dtype('f8'), False, DATA))
    assert array.tolist() == ARRAY.tolist()


def test_flags_of_a_dtype_are_not_taken_from_the_file(tmp_path):
    state = (1, SHAPE, FLAGGED, False, DATA)
    torch.save({'x': Reduced(RECONSTRUCT, EMPTY, state)}, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth')['x']
    assert loaded.dtype == ARRAY.dtype and not loaded.dtype.hasobject
    assert loaded.tolist() == ARRAY.tolist()


@pytest.mark.parametrize('code', ['b1', 'i1', 'i4', 'i8', 'u1', 'u8', 'f2', 'f4', 'f8'])
def test_arrays_and_numbers_are_loaded_and_saved_again(code, tmp_path):
    array = np.arange(6).astype(code).reshape(2, 3)
    values = {'c': array, 'fortran': np.asfortranarray(array), 'one': array[1, 2]}
    torch.save(values, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth')
    for key, value in values.items():
        assert loaded[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded[key], value)
    saved_again = pickle.dumps(loaded)
    assert b'mmghostnetv2' not in saved_again
    assert type(pickle.loads(saved_again)['c']) is np.ndarray


@pytest.mark.parametrize(
    'attack',
    [
        Attack(os.mkdir, 'owned'),
        Attack(getattr, os.PathLike, 'register'),
        Attack(getattr, HistoryBuffer, '__init__'),
        Attack(getattr, HistoryBuffer, 'statistics'),
        Attack(getattr, 'owned', 'format'),
        Attack(eval, '__import__("os").mkdir("owned")'),
        # numpy would allocate what the nested lists ask for
        Attack(HistoryBuffer, [[1.0]], [[1]]),
        Attack(OneCycleParamScheduler),
    ],
    ids=['os', 'class', 'dunder', 'statistics', 'str', 'eval', 'buffer', 'schedule'],
)
def test_code_in_a_checkpoint_is_refused(attack, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': attack}, 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load('evil.pth')
    for name in ('evil.pth', served + 'evil.pth'):
        with pytest.raises(RuntimeError, match=f'cannot read weights from {name}'):
            read_weights(name)
    assert not os.path.exists('owned')


# ---- what mmengine's own functions load


CODE = {
    'import': 'import os\na = 1',
    'call': 'a = 1\nb = print("owned")',
    'method': 'a = "owned".upper()',
    'attribute': 'a = dict.fromkeys',
    'operator': 'a = [1] * 10**9',
    'comprehension': 'a = [b for b in (1, 2)]',
    'lambda': 'a = lambda: 1',
    'unknown name': 'a = open',
    'other call': 'a = dict(b=int("1"))',
    'unpacking': 'a = dict(**b)',
    'two names': 'a = b = 1',
    'subscript': 'a = {}\na["b"] = 1',
    'base': '_base_ = "/somewhere.py"',
    'template': 'a = "{{ $HOME:1 }}"',
    'syntax': 'a = (',
    'nesting': 'a = ' + '[' * 1000 + ']' * 1000,
    'number': 3,
}


@pytest.mark.parametrize('code', CODE.values(), ids=CODE.keys())
@pytest.mark.parametrize('place', ['cfg', 'config', 'message_hub'])
def test_code_in_the_config_of_a_checkpoint_is_refused(code, place, tmp_path):
    """mmengine would run it, in an inferencer or when it resumes."""
    content = {'state_dict': {}, 'meta': {place: code}}
    if place == 'message_hub':
        content = {'state_dict': {}, place: {'runtime_info': {'cfg': code}}}
    torch.save(content, tmp_path / 'evil.pth')
    with pytest.raises(RuntimeError, match=r'evil\.pth is unsafe to load.*config'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))


def test_the_line_is_named():
    with pytest.raises(ValueError, match=r'line 3 of its config.*: exit\(\)'):
        safe_loading.require_plain_config('a = 1\nb = -2.5\nc = dict(d=[exit()])\n')


@pytest.mark.parametrize(
    'name',
    ['yolov3_ghostnetv2_320', 'deeplabv3_ghostnetv2_ade20k', 'ghostnetv2_100_in1k'],
)
def test_configs_as_mmengine_saves_them_are_accepted(name):
    pytest.importorskip('mmdet', reason='YOLOv3 inherits from its config')
    text = Config.fromfile(config_path(name)).pretty_text
    safe_loading.require_plain_config(text)
    safe_loading.require_plain_config(
        "a = dict({'b c': (1, {2}, None)})\nd = [a, -1]\n"
    )
    values = dict(a=range(3), b=range(1, 9, 2), c=slice(None, 2), d=set(), e={1})
    values |= dict(f=float('inf'), g=-float('inf'), h=float('nan'))
    safe_loading.require_plain_config(Config(values).pretty_text)


def test_damaged_files_are_named_by_mmengine(tmp_path):
    for name, content, reason in (
        ('empty.pth', b'', 'it is empty'),
        ('page.pth', b' <!doctype html>', 'it is a web page'),
        ('noise.pth', bytes(range(256)), 'it is not a checkpoint'),
        ('noise.safetensors', b'\xff' * 99, 'it is damaged'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError) as caught:
            load_checkpoint(GhostNetV2(0.1), str(tmp_path / name))
        assert f'{tmp_path / name}: {reason}' in str(caught.value)
        assert '\n' not in str(caught.value)
        assert 'weights_only' not in str(caught.value)


@pytest.mark.parametrize(
    ('network', 'weights', 'message'),
    [
        (
            GhostNetV2(0.1),
            GhostNet(0.1).state_dict(),
            r'\d\d+ .* missing \(blocks.2.0.gh',
        ),
        (
            GhostNet(0.1),
            GhostNetV2(0.1).state_dict(),
            r'\d\d+ .* left over \(blocks.2.0',
        ),
        (
            GhostNetV2(0.1),
            GhostNetV2(0.2).state_dict(),
            r'[1-9]\d* have a different shape \(\S+ is \(\d',
        ),
        (GhostNetV2(0.1), {}, r'missing \(conv_stem.weight, '),
        (
            GhostNetV2(0.1),
            {'neck.weight': torch.ones(1)},
            r'missing \(conv_stem.weight, ',
        ),
    ],
    ids=['V1 in V2', 'V2 in V1', 'other width', 'empty', 'another part'],
)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_mmengine_does_not_load_another_network(
    network, weights, message, prefix, tmp_path, logged
):
    """Where mmengine only logs what is missing, unless that is asked for."""
    path = str(tmp_path / 'other.pth')
    torch.save({'state_dict': prefixed(weights, prefix)}, path)
    model = torch.nn.ModuleDict({'backbone': network}) if prefix else network
    before = copy.deepcopy(network.state_dict())
    message = message.replace('(conv', f'({prefix}conv').replace('(bl', f'({prefix}bl')
    with pytest.raises(RuntimeError, match=message):
        load_checkpoint(model, path)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), 'nothing was loaded'
    with partial_loading():
        load_checkpoint(model, path)
    assert any(re.search(message, line) for line in logged)


def test_fine_tuning_with_other_classes_is_no_other_network(tmp_path):
    """The backbone fits, and mmengine reports the rest."""
    weights = prefixed(GhostNetV2(0.1).state_dict(), 'backbone.')
    weights['bbox_head.weight'] = torch.ones(80)
    torch.save({'state_dict': weights}, tmp_path / 'detector.pth')
    model = torch.nn.ModuleDict({'backbone': GhostNetV2(0.1, out_indices=(4, 6))})
    load_checkpoint(model, str(tmp_path / 'detector.pth'))
    assert_loaded(model, weights)


def test_weights_of_a_detector_in_a_classifier(tmp_path):
    models = pytest.importorskip('mmpretrain', reason='builds the classifier')
    weights = prefixed(GhostNetV2().state_dict(), 'backbone.')
    weights['bbox_head.weight'] = torch.ones(80)
    torch.save({'state_dict': weights}, tmp_path / 'detector.pth')
    name = 'ghostnetv2-100_3rdparty_in1k'
    with pytest.raises(RuntimeError, match='detector or segmentor, with bbox_head'):
        models.get_model(name, pretrained=str(tmp_path / 'detector.pth'))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_named(value, tmp_path, logged):
    weights = GhostNetV2(0.1).state_dict()
    weights['bn1.bias'][2] = value
    torch.save(weights, tmp_path / 'diverged.pth')
    load_checkpoint(GhostNetV2(0.1), str(tmp_path / 'diverged.pth'))
    assert any('diverged.pth has NaN or infinite' in line for line in logged)
    assert any('in 1 of its tensors (bn1.bias)' in line for line in logged)


@pytest.mark.parametrize(
    'weights', [{1: torch.ones(2)}, {'conv_stem.weight': torch.ones(2) * 1j}]
)
def test_weights_of_no_network(weights, tmp_path):
    torch.save({'state_dict': weights}, tmp_path / 'odd.pth')
    with pytest.raises(RuntimeError, match=r'odd\.pth holds no weights of a network'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'odd.pth'))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast(dtype, tmp_path):
    weights = {k: v.to(dtype) for k, v in GhostNetV2(0.1).state_dict().items()}
    torch.save(weights, tmp_path / 'half.pth')
    network = pretrained(tmp_path / 'half.pth', widen_factor=0.1)
    for key, value in network.state_dict().items():
        assert torch.equal(value, weights[key].to(value.dtype)), key
    assert network.conv_stem.weight.dtype == torch.float32


def test_weight_without_dimensions(tmp_path):
    weights = GhostNetV2(0.1).state_dict() | {'conv_stem.weight': torch.tensor(1.0)}
    torch.save(weights, tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=r'odd.pth belongs .*conv_stem.weight.*\[\]'):
        pretrained(tmp_path / 'odd.pth', widen_factor=0.1)
