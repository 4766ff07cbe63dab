"""The page of one's own data: its commands and its lines of configs, on the digits."""

import json
import re
import shlex
import shutil

import pytest
from mmengine.config import Config

from mmghostnetv2.custom_data import count_images, plan_epochs

from ..conftest import ROOT
from ..e2e.conftest import openmmlab, scalars  # noqa: F401
from .conftest import fenced_blocks

torch = pytest.importorskip('torch', reason='trains')
pytest.importorskip('sklearn', reason="the digits are scikit-learn's")

PAGE = ROOT / 'docs/your_data.md'
TEMPLATES = ROOT / 'configs/templates'
# Section of the page: library, sizes of the template and of the test, and options. Few
# and small pictures make the test short; the commands are those of the page.
FEW = ' '.join(f'{x}_dataloader.dataset.indices=12' for x in ('train', 'val', 'test'))
TASKS = {
    'Detection': ('mmdet', (416, 96), 'train_cfg.max_epochs=1'),
    'Segmentation': ('mmseg', (320, 96), 'train_cfg.max_iters=2'),
    'Classification': ('mmpretrain', (224, 64), f'train_cfg.max_epochs=1 {FEW}'),
}


def section(name):
    """Return the text of a section of the page."""
    return re.search(rf'(?ms)^## {name}\n.*?(?=^## |\Z)', PAGE.read_text())[0]


def blocks(text, language):
    """Return the blocks of a text that the page says are run by this file."""
    note = 'run by: tests/test_docs/test_your_data.py'
    return [
        b.code for b in fenced_blocks(text) if (b.language, b.note) == (language, note)
    ]


@pytest.fixture
def checkout(tmp_path, digits):
    """A folder like the checkout, with the digits where the templates expect them."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    return tmp_path


@pytest.mark.parametrize('name', TASKS)
def test_commands(name, checkout, released, run_script, openmmlab):  # noqa: F811
    library, (size, small), short = TASKS[name]
    pytest.importorskip(library, reason='trains the model')
    pytest.importorskip('onnxruntime', reason='runs the exported file')
    weights = checkout / 'ck_ghostnetv2_10.pth.tar'
    torch.save(released, weights)
    short += f' model.backbone.init_cfg.checkpoint={weights}'
    variables, said = {}, ''
    text = ''.join(blocks(section(name), '')).replace('\\\n', '')
    text = text.replace(f'--shape {size} ', f'--shape {small} ')
    commands = [shlex.split(line) for line in text.splitlines()]
    for command in commands:
        command = [variables.get(word, word) for word in command]
        match command:
            case ['mkdir', '-p', folder]:
                (checkout / folder).mkdir(parents=True)
            case ['cp', source, target]:
                template = (checkout / source).read_text()
                assert f'\nsize = {size} ' in template
                template = template.replace(f'\nsize = {size} ', f'\nsize = {small} ')
                (checkout / target).write_text(template)
            case ['mim', job, package, config, *options]:
                assert package == library
                options = [x for x in options if x != '--checkpoint']
                options += ['--cfg-options', *short.split()]
                said = openmmlab(job, package, config, *options, cwd=checkout)
            case ['python', tool, *arguments]:
                said = run_script(ROOT / tool, *arguments, cwd=checkout)
            case _:  # CHECKPOINT=$(cat FILE)
                variable, file = re.fullmatch(
                    r'(\w+)=\$\(cat (.+)\)', ' '.join(command)
                ).groups()
                path = checkout / (checkout / file).read_text()
                assert path.is_file()
                variables[f'${variable}'] = str(path)
    assert [command[0] for command in commands].count('mim') == 2
    if name == 'Detection':  # other tests export segmentors and classifiers
        pictures = list((checkout / commands[-1][3]).iterdir())
        assert pictures and all(picture.name in said for picture in pictures)
        drawn = {path.stem for path in (checkout / 'found').iterdir()}
        assert {picture.stem for picture in pictures} <= drawn
    (folder,) = (checkout / 'work_dirs').iterdir()
    losses = [line['loss'] for line in scalars(folder) if 'loss' in line]
    assert losses and all(map(torch.isfinite, map(torch.tensor, losses)))


@pytest.mark.parametrize('name', TASKS)
def test_changed_lines_are_in_the_template(name):
    """The lines that the page changes exist, and what follows from them changes."""
    (lines,) = blocks(section(name), 'python')
    stem = re.search(r'templates/(\w+\.py)', section(name))[1]
    text = (TEMPLATES / stem).read_text()
    for line in lines.splitlines():
        start = line.split('=')[0] if '=' in line and line[0] != '#' else line
        assert f'\n{start}' in text, line
        if line[0] != '#':
            text = re.sub(rf'(?m)^{re.escape(start)}=.*$', line, text)
    changed = TEMPLATES.parent / 'custom' / stem  # not written: only names its folder
    config = Config.fromstring(
        text.replace("'../", f"'{changed.parents[1]}/"), file_format='.py'
    )
    head = config.model.get('bbox_head') or config.model.get('decode_head')
    head = head or config.model.head
    names = re.search(r'(?m)^classes = (\(.*\))', lines)[1]
    assert head.num_classes == 2
    for split in 'train', 'val', 'test':
        dataset = config[f'{split}_dataloader'].dataset
        assert str(tuple(dataset.metainfo.classes)) == names
        assert dataset.data_root.startswith('data/my_')


def test_schedule_scales_with_the_set(checkout):
    """The warm-up is one twentieth, whatever the size; it ends before the training."""
    folder = checkout / 'data/own'
    for count, epochs, warmup in (40, 100, 5), (2000, 30, 1), (9000, 12, 1):
        truth = folder / 'annotations/instances_train.json'
        truth.parent.mkdir(parents=True, exist_ok=True)
        truth.write_text(json.dumps({'images': [{}] * count}))
        text = (checkout / 'configs/templates/det_custom.py').read_text()
        own = checkout / 'configs/templates/own.py'
        own.write_text(text.replace('data/digits/detection/', f'{folder}/'))
        config = Config.fromfile(own)
        assert config.train_cfg.max_epochs == epochs
        first, second = config.param_scheduler
        assert (first.begin, first.end, second.begin) == (0, warmup, warmup)
        assert second.end == epochs
        assert first.convert_to_iter_based and second.convert_to_iter_based


def test_count_images(digits, tmp_path):
    truth = digits / 'detection/annotations/instances_train.json'
    assert count_images(truth) == len(list((digits / 'detection/train').iterdir()))
    singles = digits / 'classification/val'
    assert count_images(singles) == len(list(singles.glob('*/*.png'))) > 10
    assert count_images(tmp_path / 'missing.json') == 0
    broken = tmp_path / 'broken.json'
    for text in '{', '[]', '{"annotations": []}':
        broken.write_text(text)
        with pytest.raises(ValueError, match=r'broken\.json is not in the format'):
            count_images(broken)


def test_documented_epochs():
    text = PAGE.read_text()
    assert '100 pictures are trained for 100 epochs with 5 epochs' in ' '.join(
        text.split()
    )
    assert plan_epochs(100) == 100
    assert '2000 pictures for 30 epochs' in ' '.join(text.split())
    assert plan_epochs(2000) == 30
    assert plan_epochs(0) == 100 and plan_epochs(10**6) == 12
