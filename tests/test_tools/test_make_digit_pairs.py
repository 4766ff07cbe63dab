"""tools/datasets/make_digit_pairs.py: what the labels depend on, and on what not."""

import json
from collections import Counter
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import load_tool

load_digits = pytest.importorskip('sklearn.datasets').load_digits

TOOL = Path(__file__).parents[2] / 'tools' / 'datasets' / 'make_digit_pairs.py'
SMALL = ['--train', '40', '--singles', '30', '--val', '20', '--height', '32']
# which digit comes after which in the circle 0 1 2 3 4, written out
AFTER = {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 0), (4, 0), (4, 1)}


def contents(folder):
    """Every file below a folder by its relative path."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def places(path):
    """Left and right source of a picture, from its name; None for an empty place."""
    names = path.stem.split('_')[1].split('-')
    return [None if name == 'none' else int(name) for name in names]


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


@pytest.fixture(scope='module')
def pairs(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'pairs'
    tool.main(['--out-dir', str(out), *SMALL, '--workers', '1'])
    return out


@pytest.mark.parametrize(('split', 'count'), [('train', 40), ('val', 20)])
def test_the_class_is_the_way_round_the_circle(pairs, split, count):
    labels, numbers = load_digits().target, set()
    seen = Counter()
    for path in (pairs / split).glob('pair_*/*.png'):
        left, right = (int(labels[index]) for index in places(path))
        expected = 'pair_after' if (left, right) in AFTER else 'pair_before'
        assert path.parent.name == expected
        seen[left, right] += 1
        numbers.add(int(path.stem.split('_')[0]))
    assert numbers == set(range(count))
    assert seen == dict.fromkeys(permutations(range(5), 2), count // 20)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_neither_digit_nor_both_unplaced_tell_the_class(pairs, split):
    labels = load_digits().target
    counts = Counter()
    for path in (pairs / split).glob('pair_*/*.png'):
        left, right = (int(labels[index]) for index in places(path))
        unplaced = frozenset([left, right])
        for part in (('left', left), ('right', right), unplaced, 'nothing'):
            counts[path.parent.name, part] += 1
    parts = {part for _, part in counts}
    assert len(parts) == 5 + 5 + 10 + 1
    for part in parts:
        assert counts['pair_after', part] == counts['pair_before', part]


def test_any_number_of_pairs_is_as_even_as_can_be(tool):
    sources = [[digit] for digit in range(5)]
    jobs = tool.plan_pairs(47, sources, np.random.default_rng(0))
    uses = Counter(tuple(map(int, job[1:])) for job in jobs)
    assert len(jobs) == 47 and len(uses) == 20 and set(uses.values()) == {2, 3}


def test_singles_are_in_train_alone_on_both_sides(pairs):
    labels = load_digits().target
    seen = Counter()
    for path in (pairs / 'train').glob('single_*/*.png'):
        left, right = places(path)
        assert (left is None) != (right is None)
        digit = labels[right if left is None else left]
        assert path.parent.name == f'single_{digit}'
        seen[digit, left is None] += 1
    assert sum(seen.values()) == 30 and set(seen) == set(
        product(range(5), [True, False])
    )
    folders = [sorted(p.name for p in (pairs / s).iterdir()) for s in ('train', 'val')]
    # the numbers of the classes, which are those of their folders, agree
    assert folders[1] == ['pair_after', 'pair_before'] == folders[0][:2]
    assert len(folders[0]) == 7


def test_train_and_val_share_no_source_digit(pairs):
    used = [
        {index for path in (pairs / split).rglob('*.png') for index in places(path)}
        for split in ('train', 'val')
    ]
    assert used[0] & used[1] <= {None}
    assert len(used[0]) > 60 and len(used[1]) > 20


def likeness(ink, source):
    """Correlation of an inked (h, w) array and a source digit, both cut to the ink."""
    arrays = []
    for array in (ink, source > 0.5 * source.max()):
        rows, cols = np.flatnonzero(array.any(1)), np.flatnonzero(array.any(0))
        array = array[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        arrays.append(np.asarray(Image.fromarray(array).convert('L').resize((8, 8))))
    return np.corrcoef(*(array.ravel() for array in arrays))[0, 1]


def test_digits_are_where_they_are_said_to_be(tool, monkeypatch):
    """On plain paper: the named digits in the outer thirds, complete; between, none."""
    monkeypatch.setattr(
        tool, 'draw_paper', lambda size, _: np.full((size, size, 3), 230, np.float32)
    )
    monkeypatch.setattr(
        tool, 'finish', lambda canvas, _: np.abs(canvas - 230).max(2) > 30
    )
    images, labels = load_digits().images, load_digits().target
    zero, one = np.flatnonzero(labels == 0)[:30], np.flatnonzero(labels == 1)[:30]
    right_one = 0
    for seed, pair in enumerate(zip(zero, one, strict=True)):
        chosen = [[*pair], [None, pair[0]], [pair[1], None]][seed % 3]
        ink = tool.draw_picture(48, chosen, np.random.default_rng(seed))
        assert ink.shape == (48, 144)
        assert not ink[:, 48:96].any()
        for index, part in zip(chosen, (ink[:, :48], ink[:, 96:]), strict=True):
            if index is None:
                assert not part.any()
                continue
            rows, cols = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            assert rows[0] > 0 and rows[-1] < 47 and cols[0] > 0 and cols[-1] < 47
            assert 0.45 * 48 < rows[-1] - rows[0] + 1 < 0.9 * 48
            found = max(pair, key=lambda digit: likeness(part, images[digit]))
            right_one += found == index
    assert right_one == 40


def test_pictures_have_ink_of_contrast(pairs):
    for path in (pairs / 'val').rglob('*.png'):
        picture = Image.open(path)
        assert (picture.size, picture.mode) == ((96, 32), 'RGB')
        grey = np.asarray(picture.convert('L'), float)
        paper = np.median(grey[:, 32:64])
        for part in (grey[:, :32], grey[:, 64:]):
            assert np.percentile(np.abs(part - paper), 98) > 50


def test_same_seed_same_bytes_another_seed_others(tool, pairs, tmp_path):
    tool.main(['--out-dir', str(tmp_path / 'same'), *SMALL, '--workers', '3'])
    assert contents(pairs) == contents(tmp_path / 'same')
    tool.main(['--out-dir', str(tmp_path / 'other'), *SMALL, '--seed', '1'])
    other = contents(tmp_path / 'other')
    assert not set(contents(pairs).values()) & set(other.values())


def test_each_picture_is_drawn_in_another_way(tool, tmp_path):
    """The same two digits by seed, number and split; the same again is the same."""
    drawn = []
    for split, seed, number in [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        root = tmp_path / ['train', 'val'][split]
        (root / 'pair_after').mkdir(parents=True, exist_ok=True)
        tool.write_picture(root, 32, seed, number, ('pair_after', 0, 1))
        drawn.append((root / f'pair_after/{number:05d}_0000-0001.png').read_bytes())
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4


def test_the_same_set_is_kept_and_another_is_refused(tool, pairs, capsys):
    before = {path: path.stat().st_mtime_ns for path in pairs.rglob('*')}
    tool.main(['--out-dir', str(pairs), *SMALL])
    assert 'there already' in capsys.readouterr().out
    with pytest.raises(FileExistsError, match='holds another set'):
        tool.main(['--out-dir', str(pairs), *SMALL, '--seed', '5'])
    assert before == {path: path.stat().st_mtime_ns for path in pairs.rglob('*')}


def test_overwrite_replaces_a_set(tool, pairs, tmp_path):
    out = tmp_path / 'pairs'
    tiny = ['--out-dir', str(out), '--train', '2', '--singles', '1', '--val', '1']
    tool.main(tiny)
    tool.main([*tiny, '--height', '40', '--force'])
    manifest = json.loads((out / 'digits.json').read_text())
    assert manifest['parameters']['height'] == 40
    assert {Image.open(path).size for path in out.rglob('*.png')} == {(120, 40)}
    assert [path.name for path in tmp_path.iterdir()] == ['pairs']


@pytest.mark.parametrize(
    'manifest', [None, '{"generator": "mmghostnetv2 make_digits", "parameters": {}}']
)
def test_a_folder_of_others_is_never_touched(tool, tmp_path, manifest):
    """A set of make_digits.py is another's, too."""
    (tmp_path / 'train').mkdir()
    if manifest:
        (tmp_path / 'digits.json').write_text(manifest)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match='did not make'):
        tool.main(['--out-dir', str(tmp_path), '--force'])
    assert contents(tmp_path) == before
