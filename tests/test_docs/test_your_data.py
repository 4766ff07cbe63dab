"""The page of one's own data: its commands and lines, on digits and a photograph."""

import json
import re
import shlex
import shutil

import pytest
from mmengine.config import Config
from PIL import Image

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


def follow(text, folder, change, options, run_script, openmmlab):  # noqa: F811
    """Run commands of the page in a folder like the checkout.

    ``change`` edits the text of the template that is copied; the options are added to
    those of a training and a test. Returns the commands and what the last one printed.
    """
    variables, said = {}, ''
    commands = [shlex.split(line) for line in text.replace('\\\n', '').splitlines()]
    for command in commands:
        command = [variables.get(word, word) for word in command]
        match command:
            case ['mkdir', '-p', path]:
                (folder / path).mkdir(parents=True)
            case ['cp', source, target]:
                (folder / target).write_text(change((folder / source).read_text()))
            case ['mim', job, package, *arguments]:
                words = [x for x in arguments if not x.startswith('--')]
                paths = [x for x in words if '=' not in x]
                words = [x for x in words if '=' in x] + options
                words = [*paths, '--cfg-options', *words]
                said = openmmlab(job, package, *words, cwd=folder)
            case ['python', tool, *arguments]:
                said = run_script(ROOT / tool, *arguments, cwd=folder)
            case _:  # CHECKPOINT=$(cat FILE)
                variable, file = re.fullmatch(
                    r'(\w+)=\$\(cat (.+)\)', ' '.join(command)
                ).groups()
                path = folder / (folder / file).read_text()
                assert path.is_file()
                variables[f'${variable}'] = str(path)
    assert [command[0] for command in commands].count('mim') == 2
    return commands, said


def changed(template, lines):
    """Return the text of a template with the lines that the page shows for it."""
    for line in lines.splitlines():
        start = line.split('=')[0] if '=' in line and line[0] != '#' else line
        assert f'\n{start}' in template, line
        if line[0] != '#':
            template = re.sub(rf'(?m)^{re.escape(start)}=.*$', line, template)
    return template


@pytest.mark.parametrize('name', TASKS)
def test_commands(name, checkout, released, run_script, openmmlab):  # noqa: F811
    library, (size, small), short = TASKS[name]
    pytest.importorskip(library, reason='trains the model')
    pytest.importorskip('onnxruntime', reason='runs the exported file')
    weights = checkout / 'ck_ghostnetv2_10.pth.tar'
    torch.save(released, weights)
    options = [*short.split(), f'model.backbone.init_cfg.checkpoint={weights}']

    def change(template):
        assert f'\nsize = {size} ' in template
        return template.replace(f'\nsize = {size} ', f'\nsize = {small} ')

    text = ''.join(blocks(section(name), ''))
    text = text.replace(f'--shape {size} ', f'--shape {small} ')
    commands, said = follow(text, checkout, change, options, run_script, openmmlab)
    if name == 'Detection':  # other tests export segmentors and classifiers
        pictures = list((checkout / commands[-1][3]).iterdir())
        assert pictures and all(picture.name in said for picture in pictures)
        drawn = {path.stem for path in (checkout / 'found').iterdir()}
        assert {picture.stem for picture in pictures} <= drawn
    (folder,) = (checkout / 'work_dirs').iterdir()
    losses = [line['loss'] for line in scalars(folder) if 'loss' in line]
    assert losses and all(map(torch.isfinite, map(torch.tensor, losses)))


def test_photograph(checkout, run_script, openmmlab):  # noqa: F811
    """The page's real picture, from the template to the sheet, for two epochs."""
    pytest.importorskip('mmdet', reason='trains the model')
    (checkout / 'docs').symlink_to(ROOT / 'docs')
    text = section('A photograph to try')
    (lines,) = blocks(text, 'python')
    options = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    _, said = follow(
        ''.join(blocks(text, '')),
        checkout,
        lambda template: changed(template, lines),
        options,
        run_script,
        openmmlab,
    )
    assert ' of 12 objects matched' in said
    with Image.open(checkout / 'coins.png') as sheet:
        assert sheet.width > 640
    losses = [x['loss'] for x in scalars(checkout / 'work_dirs/coins') if 'loss' in x]
    assert losses and all(map(torch.isfinite, map(torch.tensor, losses)))


@pytest.mark.parametrize('name', TASKS)
def test_changed_lines_are_in_the_template(name):
    """The lines that the page changes exist, and what follows from them changes."""
    (lines,) = blocks(section(name), 'python')
    stem = re.search(r'templates/(\w+\.py)', section(name))[1]
    text = changed((TEMPLATES / stem).read_text(), lines)
    config = Config.fromstring(
        text.replace("'../", f"'{TEMPLATES.parent}/"), file_format='.py'
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
