"""tools/datasets/make_digits.py against pycocotools, Pillow and scikit-learn."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmghostnetv2 import digits as digits_module

from .conftest import load_tool

load_digits = pytest.importorskip('sklearn.datasets').load_digits
COCO = pytest.importorskip('pycocotools.coco').COCO

TOOL = Path(__file__).parents[2] / 'tools' / 'datasets' / 'make_digits.py'
SMALL = ['--train', '6', '--val', '3', '--size', '160', '--cls-size', '32']
SMALL += ['--cls-copies', '2']
SPLITS = {'train': 'training', 'val': 'validation'}


def contents(folder):
    """Every file below a folder by its relative path."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture
def few(tool, monkeypatch):
    """The tool with 100 source digits only, for runs whose pictures don't matter."""
    sources, labels = tool.load_sources()
    for module in (tool, digits_module):
        monkeypatch.setattr(
            module, 'load_sources', lambda: (sources[:100], labels[:100])
        )
    return tool


@pytest.fixture(scope='module')
def digits(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digits'
    tool.main(['--out-dir', str(out), *SMALL, '--workers', '1'])
    return out


def annotation_file(digits, split):
    return digits / 'detection' / 'annotations' / f'instances_{split}.json'


def label_map(digits, split, image):
    name = Path(image['file_name']).with_suffix('.png').name
    folder = digits / 'segmentation' / 'annotations' / SPLITS[split]
    return np.asarray(Image.open(folder / name))


@pytest.mark.parametrize(('split', 'count'), [('train', 6), ('val', 3)])
def test_detection_reads_as_coco(digits, split, count):
    coco = COCO(str(annotation_file(digits, split)))
    names = {item['id']: item['name'] for item in coco.loadCats(coco.getCatIds())}
    assert names == {1 + digit: str(digit) for digit in range(10)}
    assert len(coco.imgs) == count
    labels = load_digits().target
    for image_id, image in coco.imgs.items():
        picture = Image.open(digits / 'detection' / split / image['file_name'])
        assert picture.size == (image['width'], image['height']) == (160, 160)
        assert picture.mode == 'RGB'
        annotations = coco.imgToAnns[image_id]
        assert 4 <= len(annotations) <= 12
        for annotation in annotations:
            assert names[annotation['category_id']] == str(labels[annotation['source']])
            assert annotation['iscrowd'] == 0


@pytest.mark.parametrize('split', SPLITS)
def test_boxes_and_areas_are_those_of_the_masks(digits, split):
    coco = COCO(str(annotation_file(digits, split)))
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, cols = np.nonzero(mask)
        left, top = cols.min(), rows.min()
        width, height = cols.max() - left + 1, rows.max() - top + 1
        assert annotation['bbox'] == [left, top, width, height]
        assert annotation['area'] == mask.sum() > 0
        assert max(width, height) >= 10
        assert left >= 0 and left + width <= 160
        assert top >= 0 and top + height <= 160


@pytest.mark.parametrize('split', SPLITS)
def test_label_maps_are_the_masks(digits, split):
    """Masks don't overlap, and between them and the paper lies a thin rim."""
    coco = COCO(str(annotation_file(digits, split)))
    for image_id, image in coco.imgs.items():
        seg = label_map(digits, split, image)
        assert seg.dtype == np.uint8 and seg.shape == (160, 160)
        drawn = np.zeros(seg.shape, int)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not drawn[mask].any()
            drawn[mask] = 1 + annotation['category_id']
        assert np.array_equal(np.where(seg >= 2, seg, 0), drawn)
        assert (seg == 1).mean() > 0.5
        rim = np.argwhere(seg == 0)
        assert 0 < len(rim) < (seg >= 2).sum()
        for y, x in rim:
            assert (seg[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] >= 2).any()


@pytest.mark.parametrize('split', SPLITS)
def test_ink_stands_out_from_the_paper_beside_it(digits, split):
    """The pixels of the picture agree with the labels, however it is coloured."""
    coco = COCO(str(annotation_file(digits, split)))
    for image_id, image in coco.imgs.items():
        picture = Image.open(digits / 'detection' / split / image['file_name'])
        grey = np.asarray(picture.convert('L'), float)
        seg = label_map(digits, split, image)
        for annotation in coco.imgToAnns[image_id]:
            x, y, w, h = annotation['bbox']
            near = slice(max(y - 4, 0), y + h + 4), slice(max(x - 4, 0), x + w + 4)
            ink = grey[coco.annToMask(annotation).astype(bool)].mean()
            assert abs(ink - grey[near][seg[near] == 1].mean()) > 35


def test_crowded_digits_stay_readable(tool, monkeypatch):
    """Large digits that can't all find room: none touches another's ink or box much."""
    mask = pytest.importorskip('pycocotools.mask')
    monkeypatch.setattr(tool, 'DIGIT_SIZE', (0.25, 0.5))
    drawn = 0
    for seed in range(12):
        _, seg, found = tool.draw_scene(128, range(8), np.random.default_rng(seed))
        drawn += len(found)
        assert sum(item['area'] for item in found) == (seg >= 2).sum()
        boxes = np.array([item['bbox'] for item in found], float)
        # As a crowd: the share of each box (row) that another (column) covers.
        covered = mask.iou(boxes, boxes, [1] * len(boxes))
        assert np.tril(covered, -1).max() <= 0.2  # by those drawn before it
    assert 12 * 4 < drawn < 12 * 8


@pytest.mark.parametrize('share', [0.1, 0.5, 1])
@pytest.mark.parametrize('corner', [True, False])
def test_run_lengths_are_those_of_pycocotools(tool, share, corner):
    coco = pytest.importorskip('pycocotools.mask')
    mask = np.random.default_rng(0).random((13, 9)) <= share
    mask[0, 0] = corner
    item = tool.annotate(mask, 3, 42)
    code = coco.frPyObjects(item['segmentation'], *mask.shape)
    expected = coco.encode(np.asfortranarray(mask, np.uint8))
    assert code == expected
    assert item['area'] == coco.area(expected)
    assert item['bbox'] == coco.toBbox(expected).tolist()
    assert (item['category_id'], item['source']) == (4, 42)


@pytest.mark.parametrize('split', SPLITS)
def test_segmentation_has_the_pictures_of_detection(digits, split):
    pictures = contents(digits / 'detection' / split)
    assert pictures == contents(digits / 'segmentation' / 'images' / SPLITS[split])
    labels = contents(digits / 'segmentation' / 'annotations' / SPLITS[split])
    assert sorted(map(Path.stem.fget, map(Path, pictures))) == sorted(
        map(Path.stem.fget, map(Path, labels))
    )


def test_classification_has_every_source(digits):
    """Once in val, twice (--cls-copies) in train, drawn in another way."""
    labels = load_digits().target
    seen = {}
    for split, copies in (('train', 2), ('val', 1)):
        pictures = {}
        for path in (digits / 'classification' / split).glob('*/*.png'):
            source = int(path.stem.split('_')[0])
            assert path.parent.name == str(labels[source])
            assert seen.setdefault(source, split) == split
            pictures.setdefault(source, set()).add(path.read_bytes())
        assert set(map(len, pictures.values())) == {copies}
    assert sorted(seen) == list(range(len(labels)))
    picture = Image.open(path)
    assert (picture.size, picture.mode) == ((32, 32), 'RGB')
    total = Counter(labels)
    for digit, count in Counter(labels[s] for s in seen if seen[s] == 'val').items():
        assert count == round(0.2 * total[digit])


def test_train_and_val_share_no_source_digit(digits):
    sources = {}
    for split in SPLITS:
        annotations = json.loads(annotation_file(digits, split).read_text())
        sources[split] = {item['source'] for item in annotations['annotations']}
        folder = digits / 'classification' / split
        singles = {int(path.stem.split('_')[0]) for path in folder.glob('*/*.png')}
        assert sources[split] <= singles
        sources[split] |= singles
    assert sources['train'].isdisjoint(sources['val'])


def test_same_seed_same_bytes_whatever_the_processes(tool, digits, tmp_path):
    out = tmp_path / 'same'
    tool.main(['--out-dir', str(out), *SMALL, '--workers', '3'])
    assert contents(digits) == contents(out)


def test_another_seed_deals_and_draws_anew(few, tmp_path):
    files = []
    for seed in '01':
        out = tmp_path / seed
        few.main(['--out-dir', str(out), *SMALL, '--seed', seed])
        files.append(contents(out))
    for name in ('detection/val/000000000001.jpg', 'detection/train/000000000001.jpg'):
        assert files[0][name] != files[1][name]
    first, second = ({name for name in names if '/val/' in name} for names in files)
    assert first != second


def test_same_parameters_return_at_once(tool, digits, capsys):
    before = {path: path.stat().st_mtime_ns for path in digits.rglob('*')}
    tool.main(['--out-dir', str(digits), *SMALL])
    assert 'there already' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in digits.rglob('*')}


def test_other_parameters_are_refused_unless_overwritten(few, tmp_path):
    out = tmp_path / 'digits'
    tiny = ['--out-dir', str(out), '--train', '1', '--val', '1', '--size', '96']
    tiny += ['--cls-size', '32']
    few.main(tiny)
    before = contents(out)
    with pytest.raises(
        FileExistsError, match=r'digits exists and holds another.*--force'
    ):
        few.main([*tiny, '--seed', '5'])
    assert contents(out) == before
    few.main([*tiny, '--seed', '5', '--force'])
    assert json.loads((out / 'digits.json').read_text())['parameters']['seed'] == 5
    assert contents(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ['digits']
    (out / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='did not make'):
        few.main([*tiny, '--force'])
    assert (out / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('manifest', [None, '{', '[]', '{"generator": "another"}'])
def test_a_folder_of_others_is_never_touched(tool, tmp_path, manifest):
    (tmp_path / 'precious.txt').write_text('keep')
    if manifest:
        (tmp_path / 'digits.json').write_text(manifest)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match='did not make'):
        tool.main(['--out-dir', str(tmp_path), '--force'])
    assert contents(tmp_path) == before


@pytest.mark.parametrize('stop', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path, stop):
    command = [sys.executable, str(TOOL), '--out-dir', str(tmp_path / 'digits')]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        # the jobs that a shell runs in the background ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as job:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob('.*/digits/detection/train/*.jpg')):
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)
        assert not (tmp_path / 'digits').exists()
        job.send_signal(stop)
        job.wait(timeout=20)
    assert job.returncode == 128 + stop
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_the_old_set(few, digits, monkeypatch):
    before = contents(digits)

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(few, 'coco_json', fail)
    with pytest.raises(OSError, match='disk full'):
        few.main(['--out-dir', str(digits), '--train', '1', '--val', '1', '--force'])
    assert contents(digits) == before
    assert [path.name for path in digits.parent.iterdir()] == ['digits']


def test_a_failure_draws_no_more(tool, tmp_path, monkeypatch):
    jobs = []

    def draw_split(root, split, indices, args, pool):
        jobs.extend(pool.submit(time.sleep, 0.1) for _ in range(50))
        raise OSError('disk full')

    monkeypatch.setattr(tool, 'draw_split', draw_split)
    with pytest.raises(OSError, match='disk full'):
        tool.main(['--out-dir', str(tmp_path / 'digits'), '--workers', '1'])
    assert any(job.cancelled() for job in jobs)


def test_works_without_hard_links(tool, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError('no links here')

    for folder in ('detection/train', 'segmentation/images/training'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'segmentation/annotations/training').mkdir(parents=True)
    monkeypatch.setattr(tool.os, 'link', refuse)
    tool.write_scene(tmp_path, 'train', 96, 0, 1, [3])
    one, two = tmp_path.rglob('*.jpg')
    assert one.read_bytes() == two.read_bytes()
    assert not one.samefile(two)


@pytest.mark.parametrize(
    ('option', 'value'), [('--size', '50'), ('--seed', '-3'), ('--workers', '0')]
)
def test_bad_arguments_are_named(tool, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit):
        tool.main(['--out-dir', str(tmp_path / 'digits'), option, value])
    message = capsys.readouterr().err
    assert f'argument {option}: must be a whole number' in message and value in message
    assert list(tmp_path.iterdir()) == []


def test_missing_scikit_learn_is_one_clear_line(tool, tmp_path, monkeypatch):
    tool.load_sources.cache_clear()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        tool.main(['--out-dir', str(tmp_path / 'digits')])
    assert list(tmp_path.iterdir()) == []


def test_hands_use_all_sources_in_turn(tool):
    hands = tool.deal(list(range(20)), 50, np.random.default_rng(0))
    assert len(hands) == 50
    assert {len(hand) for hand in hands} == set(range(4, 13))
    uses = Counter(np.concatenate(hands).tolist())
    assert len(uses) == 20
    assert max(uses.values()) - min(uses.values()) <= 1
