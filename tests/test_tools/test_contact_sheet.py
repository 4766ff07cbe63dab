"""tools/visualization/contact_sheet.py: what is on the sheet, pixel by pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import load_tool

pytest.importorskip('pycocotools')

TOOL = Path(__file__).parents[2] / 'tools' / 'visualization' / 'contact_sheet.py'
GREY = (128, 128, 128)
BLUE, ORANGE = (30, 110, 255), (255, 150, 0)


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


class Scene:
    """Two grey pictures on disk, one upright and one wide, with one truth each."""

    def __init__(self, root):
        self.root, self.out = root, root / 'new' / 'sheet.png'
        images, annotations = [], []
        for number, size in ((7, (200, 400)), (3, (400, 200))):
            name = f'{number}.png'
            Image.new('RGB', size, GREY).save(root / name)
            images.append(
                {'id': number, 'file_name': name, 'width': size[0], 'height': size[1]}
            )
            annotations.append(self.box(number, 1, [60, 60, 80, 100], id=number))
        names = ['cat', 'dog']
        self.truth = {
            'images': images,
            'annotations': annotations,
            'categories': [{'id': i, 'name': n} for i, n in enumerate(names, 1)],
        }

    @staticmethod
    def box(image, category, bbox, **more):
        return {'image_id': image, 'category_id': category, 'bbox': bbox, **more}

    def arguments(self, predictions, *options):
        for name, content in (('truth', self.truth), ('found.bbox', predictions)):
            (self.root / f'{name}.json').write_text(json.dumps(content))
        paths = [self.root / 'truth.json', self.root, self.root / 'found.bbox.json']
        return [*map(str, paths), '--out', str(self.out), '--force', *options]

    def sheet(self):
        return np.asarray(Image.open(self.out).convert('RGB')).astype(int)


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def cells(sheet):
    """Find the grey pictures on the sheet: a list of arrays, left to right."""
    grey = (sheet == GREY).all(-1)
    columns = np.flatnonzero(grey.any(0))
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)
    found = []
    for part in parts:
        rows = np.flatnonzero(grey[:, part].any(1))
        found.append(sheet[rows[0] : rows[-1] + 1, part[0] : part[-1] + 1])
    return found


def is_colour(cell, x, y, colour):
    return tuple(cell[round(y), round(x)]) == colour


def test_boxes_are_drawn_where_the_files_say(tool, scene):
    """Cells of 200 pixels: everything is drawn at half its size."""
    tool.main(
        scene.arguments(
            [scene.box(3, 2, [200, 40, 160, 120], score=0.9)], '--cell', '200'
        )
    )
    wide, upright = cells(scene.sheet())  # by name: 3.png, 7.png
    assert wide.shape == (100, 200, 3) and upright.shape == (200, 100, 3)
    for cell in (wide, upright):  # truth: x 30 to 70, y 30 to 80
        for x, y in ((30, 50), (70, 50), (50, 30), (60, 80)):
            assert is_colour(cell, x, y, BLUE)
        for x, y in ((25, 50), (50, 25), (50, 55), (75, 55)):
            assert is_colour(cell, x, y, GREY)
    # Prediction: x 100 to 180, y 20 to 80, in the first picture only.
    for x, y in ((100, 50), (180, 50), (170, 20), (140, 80)):
        assert is_colour(wide, x, y, ORANGE)
    assert is_colour(wide, 140, 50, GREY)
    assert not (upright == ORANGE).all(-1).any()


def test_a_perfect_prediction_leaves_both_colours_to_see(tool, scene):
    tool.main(
        scene.arguments([scene.box(3, 1, [60, 60, 80, 100], score=1)], '--cell', '200')
    )
    wide, upright = cells(scene.sheet())
    row = [tuple(pixel) for pixel in wide[55, 25:45].tolist()]
    assert [colour for colour in row if colour != GREY] == [BLUE, ORANGE, ORANGE, BLUE]
    row = [tuple(pixel) for pixel in upright[55, 25:45].tolist()]
    assert [colour for colour in row if colour != GREY] == [BLUE] * 4


def test_labels_sit_above_predictions_and_below_truth(tool, scene):
    tool.main(
        scene.arguments(
            [scene.box(3, 2, [200, 80, 160, 80], score=0.9)], '--cell', '200'
        )
    )
    wide, _ = cells(scene.sheet())
    above, below = wide[25:38, 101:160], wide[84:95, 31:45]
    assert (above == ORANGE).all(-1).mean() > 0.5
    assert (below == BLUE).all(-1).mean() > 0.4
    for tag in (above, below):  # the text itself is neither paper nor tag
        ground = (tag == GREY).all(-1) | (tag == ORANGE).all(-1) | (tag == BLUE).all(-1)
        assert 0.03 < 1 - ground.mean() < 0.6


def test_an_only_class_is_not_named(tool, scene):
    """The box has its lines alone, and the prediction a label with its score."""
    found = [scene.box(3, 1, [200, 80, 160, 80], score=0.9)]
    scene.truth['categories'] = scene.truth['categories'][:1]
    tool.main(scene.arguments(found, '--cell', '200'))
    wide, _ = cells(scene.sheet())
    below, above = wide[84:95, 25:80], wide[25:38, 101:160]
    assert (below == GREY).all()
    assert (above == ORANGE).all(-1).sum() > 200


def test_labels_cover_no_other_object(tool, scene):
    """The label of the lower box would cover the upper one, and moves aside."""
    scene.truth['annotations'] = []
    upper, lower = [100, 40, 100, 70], [100, 112, 100, 60]
    found = [scene.box(3, 2, box, score=0.5) for box in (upper, lower)]
    tool.main(scene.arguments(found, '--cell', '400'))
    wide, _ = cells(scene.sheet())
    assert (wide[44:106, 104:196] == GREY).all()
    assert (wide[116:168, 104:196] == GREY).all()
    assert (wide == ORANGE).all(-1).sum() > 2 * 300  # both labels are drawn


def test_labels_stay_inside_the_picture(tool, scene):
    corners = [[0, 0, 40, 40], [370, 0, 30, 30], [0, 180, 20, 20], [380, 180, 20, 20]]
    scene.truth['annotations'] = []
    tool.main(
        scene.arguments(
            [scene.box(3, 2, corner, score=0.5) for corner in corners], '--cell', '300'
        )
    )
    sheet = scene.sheet()
    orange = (sheet == ORANGE).all(-1)
    orange[:74] = False  # the legend
    rows, cols = np.nonzero(orange)
    assert rows.max() - rows.min() < 150 and cols.max() - cols.min() < 300


def test_weak_predictions_and_crowds_are_left_out(tool, scene, capsys):
    scene.truth['annotations'][1]['iscrowd'] = 1
    found = [scene.box(3, 1, [200, 40, 160, 120], score=s) for s in (0.2, 0.29)]
    tool.main(scene.arguments(found))
    wide, upright = cells(scene.sheet())
    assert not (wide == ORANGE).all(-1).any() and not (wide == BLUE).all(-1).any()
    assert (upright == BLUE).all(-1).any()
    assert '2 of 2 images: 0 of 1 objects matched, 0 extra' in capsys.readouterr().out
    tool.main(scene.arguments(found, '--score-thr', '0.25'))
    assert '0 of 1 objects matched, 1 extra' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('found', 'matched'),
    [
        ([], 0),
        ([(1, [0, 0, 10, 10])], 1),
        ([(2, [0, 0, 10, 10])], 0),  # another class
        ([(1, [0, 0, 10, 5])], 1),  # IoU is exactly one half
        ([(1, [0, 0, 10, 4.9])], 0),
        ([(1, [0, 0, 10, 10]), (1, [0, 0, 10, 10])], 1),  # found twice
        ([(1, [0, 0, 10, 10]), (1, [30, 0, 10, 9])], 2),
    ],
)
def test_counting_matches(tool, found, matched):
    truth = [Scene.box(1, 1, box) for box in ([0, 0, 10, 10], [30, 0, 10, 10])]
    predictions = [Scene.box(1, c, box, score=0.5) for c, box in found]
    assert tool.count_matches(truth, predictions, 0.5) == matched


def test_no_predictions_draw_the_truth_alone(tool, scene, capsys):
    tool.main(scene.arguments([]))
    for cell in cells(scene.sheet()):
        assert (cell == BLUE).all(-1).any() and not (cell == ORANGE).all(-1).any()
    printed = capsys.readouterr().out
    assert printed == f'{scene.out}: 2 of 2 images: 0 of 2 objects matched, 0 extra\n'


def test_captions_of_small_cells_have_a_column_each(tool, scene):
    """They are wider than the pictures; between them the sheet is white."""
    tool.main(scene.arguments([], '--cell', '64'))
    sheet = scene.sheet()
    captions = (sheet[74:] != 255).any((0, 2)).nonzero()[0]
    gaps = np.diff(captions).max()
    first, second = (sheet == GREY).all(-1).any(0).nonzero()[0][[0, -1]]
    assert gaps >= 12 and second - 64 - first > 100


@pytest.mark.parametrize('options', [[], ['--seed', '4']])
def test_which_images_are_picked(tool, scene, options):
    """Ten plain pictures, each of a shade of its own."""
    scene.truth |= {'annotations': [], 'images': []}
    for number in range(10):
        name = f'shade{number}.png'
        Image.new('RGB', (80, 80), (10 * number, 0, 0)).save(scene.root / name)
        scene.truth['images'].append({'id': number, 'file_name': name})
    picked = []
    for _ in range(2):
        tool.main(scene.arguments([], '--num', '3', '--columns', '3', *options))
        row = scene.sheet()[150]
        reds = row[(row[:, 1] == 0) & (row[:, 2] == 0), 0]
        picked.append(sorted(set(reds.tolist())))
    assert picked[0] == picked[1] and len(picked[0]) == 3
    if not options:  # evenly: first, middle, last
        assert picked[0] in ([0, 40, 90], [0, 50, 90])


@pytest.mark.parametrize('name', ['truth.json', 'found.bbox.json', '3.png'])
def test_a_missing_file_is_named(tool, scene, name):
    arguments = scene.arguments([])
    (scene.root / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        tool.main(arguments)
    assert not scene.out.exists()


@pytest.mark.parametrize(
    ('predictions', 'message'),
    [
        ([Scene.box(99, 1, [0, 0, 5, 5], score=1)], r'another set.*image_id \[99\]'),
        ([Scene.box(3, 12, [0, 0, 5, 5], score=1)], r'another set.*category_id \[12\]'),
        ([Scene.box(3, 1, [0, 0, 5, 5])], r'found.bbox.json is not a list.*score'),
        ({'images': []}, 'found.bbox.json is not a list'),
    ],
)
def test_predictions_that_do_not_belong(tool, scene, predictions, message):
    with pytest.raises(ValueError, match=message):
        tool.main(scene.arguments(predictions))
    assert not scene.out.exists()


def test_broken_files_are_named(tool, scene):
    arguments = scene.arguments([])
    (scene.root / 'found.bbox.json').write_text('[{')
    with pytest.raises(ValueError, match='found.bbox.json is not JSON'):
        tool.main(arguments)
    for other in ('{"a": 1}', '[1]', '[{"image_id": 1}]'):
        (scene.root / 'found.bbox.json').write_text(other)
        with pytest.raises(ValueError, match='found.bbox.json is not a list of COCO'):
            tool.main(arguments)
    (scene.root / 'found.bbox.json').write_text('[]')
    truth = scene.truth
    wrong = [
        truth | {part: [{**truth[part][0], field: value}]}
        for part, field, value in (
            ('images', 'file_name', None),
            ('annotations', 'bbox', [1, 2]),
            ('annotations', 'bbox', [1, 2, 'a', 3]),
            ('annotations', 'image_id', [7]),
            ('categories', 'name', 3),
        )
    ]
    for other in ('[]', '{"images": [{"id": 1}]}', *map(json.dumps, wrong)):
        (scene.root / 'truth.json').write_text(other)
        with pytest.raises(ValueError, match='truth.json holds no COCO annotations'):
            tool.main(arguments)


@pytest.mark.parametrize('option', ['--num', '--columns', '--cell', '--out'])
def test_bad_arguments_are_named(tool, scene, capsys, option):
    with pytest.raises(SystemExit):
        tool.main(scene.arguments([], option, '0'))
    assert f'argument {option}' in capsys.readouterr().err
