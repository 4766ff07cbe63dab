"""tools/datasets/check_dataset.py: each kind of defect in a small data set made for it.

Where it matters, the library's own datasets and transforms show that a defect is one.
"""

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch.nn.functional import cross_entropy

from mmghostnetv2.arguments import run_tool
from mmghostnetv2.data_checks import ERRORS, WARNINGS, check_config

from ..conftest import ROOT
from .conftest import load_tool

pytest.importorskip('mmdet', reason='whose CocoDataset is checked')
pytest.importorskip('mmpretrain', reason='whose CustomDataset is checked')
pytest.importorskip('mmseg', reason='whose BaseSegDataset is checked')

TOOL = ROOT / 'tools' / 'datasets' / 'check_dataset.py'
CLASSES = ('cat', 'dog')
SIZE = WIDTH, HEIGHT = 40, 30
SAMPLES = 'first', 'second'


def encode(image, kind='PNG', **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size=SIZE, mode='RGB'):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return encode(noise(), 'JPEG', exif=exif)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def config(scope, dataset, **options):
    loader = dict(dataset=dataset)
    return Config(dict(default_scope=scope, train_dataloader=loader, **options))


def detection(folder, change=None, **options):
    """Write two images with a box each; ``change`` edits the annotations."""
    truth = {'images': [], 'annotations': []}
    truth['categories'] = [{'id': 3 + i, 'name': x} for i, x in enumerate(CLASSES)]
    for number, name in enumerate(SAMPLES, 1):
        size = {'width': WIDTH, 'height': HEIGHT}
        truth['images'].append({'id': number, 'file_name': f'{name}.png', **size})
        box = {'bbox': [2, 3, 10, 12], 'area': 120, 'iscrowd': 0}
        ids = {'id': 70 + number, 'image_id': number, 'category_id': 2 + number}
        truth['annotations'].append({**ids, **box})
        write(folder / 'images' / f'{name}.png', encode(noise()))
    if change:
        change(truth)
    (folder / 'truth.json').write_text(json.dumps(truth))
    return {
        'type': 'CocoDataset',
        'data_root': str(folder),
        'ann_file': 'truth.json',
        'data_prefix': {'img': 'images'},
        'metainfo': {'classes': CLASSES},
        'filter_cfg': {'filter_empty_gt': True},
        **options,
    }


def classification(folder, data=None, **options):
    """Write an image of each class; ``data`` replaces the first image's file."""
    write(folder / 'cat' / 'first.png', encode(noise()) if data is None else data)
    write(folder / 'dog' / 'second.png', encode(noise()))
    root = {'data_root': str(folder)}
    return {
        'type': 'CustomDataset',
        **root,
        'metainfo': {'classes': CLASSES},
        **options,
    }


def segmentation(folder, mask=None, **options):
    """Write two images with masks; ``mask`` replaces the first mask's file."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[5:9], labels[0] = 1, 255
    good = encode(Image.fromarray(labels))
    for name in SAMPLES:
        write(folder / 'images' / f'{name}.jpg', encode(noise(), 'JPEG'))
        write(folder / 'masks' / f'{name}.png', good)
    if mask is not None:
        write(folder / 'masks' / 'first.png', mask)
    return {
        'type': 'BaseSegDataset',
        'data_root': str(folder),
        'data_prefix': {'img_path': 'images', 'seg_map_path': 'masks'},
        'metainfo': {'classes': CLASSES, 'palette': [[0, 0, 0], [9, 9, 9]]},
        **options,
    }


MADE = {
    'mmdet': detection,
    'mmpretrain': classification,
    'mmseg': segmentation,
}


def findings(report):
    """Return {kind: items} of a report of one split."""
    found = report.to_list()
    for item in found:
        assert item['severity'] == ('error' if item['kind'] in ERRORS else 'warning')
        assert item['count'] == len(item['items']) > 0 and item['meaning']
    return {item['kind']: item['items'] for item in found}


def check(scope, dataset, **options):
    return findings(check_config(config(scope, dataset, **options)))


def assert_only(found, kind, severity, name):
    """Check that all that was found is one defect of the file or id ``name``."""
    assert list(found) == [kind], found
    assert kind in {'error': ERRORS, 'warning': WARNINGS}[severity]
    assert len(found[kind]) == 1 and name in found[kind][0], found


def library(scope, dataset):
    init_default_scope(scope)
    return DATASETS.build(dataset)


@pytest.mark.parametrize('scope', MADE)
def test_clean_data_have_no_findings(tmp_path, scope):
    report = check_config(config(scope, MADE[scope](tmp_path)))
    assert not report.findings
    (dataset,) = report.datasets
    assert (dataset['split'], dataset['images'], dataset['note']) == ('train', 2, '')


@pytest.mark.parametrize(
    ('data', 'kind', 'severity'),
    [
        (b'', 'image-unreadable', 'error'),
        (b'not an image', 'image-unreadable', 'error'),
        (encode(noise())[:1500], 'image-unreadable', 'error'),
        (encode(noise(), 'JPEG')[:-200], 'image-unreadable', 'error'),
        # only OpenCV fails: 32-bit numbers
        (encode(noise(mode='F'), 'TIFF'), 'image-unreadable', 'error'),
        (encode(noise(mode='I;16')), 'image-16-bit', 'warning'),
        (encode(noise(mode='CMYK'), 'JPEG'), 'image-cmyk', 'warning'),
        (encode(noise(mode='RGBA')), 'image-alpha', 'warning'),
        (encode(noise(mode='P'), transparency=0), 'image-alpha', 'warning'),
        (turned(6), 'image-rotated', 'warning'),
        (encode(noise((1, 40))), 'image-thin', 'warning'),
        (encode(noise((1100, 2))), 'image-ratio', 'error'),
        (encode(Image.new('1', (20_001, 99))), 'image-huge', 'warning'),
    ],
)
def test_images(tmp_path, data, kind, severity):
    found = check('mmpretrain', classification(tmp_path, data))
    assert_only(found, kind, severity, 'cat/first.png')


def test_16_bit_colours_that_pillow_reads_as_8_bit(tmp_path):
    cv2 = pytest.importorskip('cv2')
    pixels = np.full((30, 40, 3), 40_000, np.uint16)
    found = check(
        'mmpretrain', classification(tmp_path, cv2.imencode('.png', pixels)[1])
    )
    assert_only(found, 'image-16-bit', 'warning', 'first.png')


def test_images_that_pillow_refuses_for_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', WIDTH * HEIGHT - 1)
    dataset = classification(tmp_path, encode(noise((WIDTH, 2 * HEIGHT))))
    found = check('mmpretrain', dataset)
    assert_only(found, 'image-huge', 'warning', 'first.png')


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_missing_images(tmp_path, scope):
    dataset = MADE[scope](tmp_path)
    if scope == 'mmseg':
        (tmp_path / 'names.txt').write_text('first\nsecond\n')
        dataset['ann_file'] = 'names.txt'
    next(tmp_path.glob('images/first.*')).unlink()
    assert_only(check(scope, dataset), 'image-missing', 'error', 'images/first.')


def edit(key, number=0, **values):
    return lambda truth: truth[key][number].update(values)


def box(*numbers, **values):
    return edit('annotations', bbox=numbers, **values)


@pytest.mark.parametrize(
    ('change', 'kind', 'severity', 'name'),
    [
        (box(2, float('nan'), 9, 9), 'box-not-finite', 'error', '71 of first.png'),
        (box(2, 3, float('inf'), 9), 'box-not-finite', 'error', '71 of first.png'),
        (box(20, 20, -9, -9), 'box-negative', 'error', '71 of first.png'),
        (box(2, 3, 0, 9), 'box-tiny', 'warning', '71 of first.png'),
        (box(40, 3, 9, 9), 'box-outside', 'error', '71 of first.png'),
        (box(-9, 3, 9, 9), 'box-outside', 'error', '71 of first.png'),
        (box(30, 3, 20, 9), 'box-over-edge', 'warning', '71 of first.png'),
        (box(2, 3, 9, 9, area=0), 'box-area', 'error', '71 of first.png'),
        (edit('annotations', category_id=9), 'category-unknown', 'error', '.png: 9'),
        (
            edit('images', width=HEIGHT, height=WIDTH),
            'image-size',
            'error',
            'first.png: 40x30, annotations have 30x40',
        ),
    ],
)  # fmt: skip
def test_annotations_that_mmdet_accepts(tmp_path, change, kind, severity, name):
    assert_only(check('mmdet', detection(tmp_path, change)), kind, severity, name)


def test_clean_boxes_may_round_over_the_edge(tmp_path):
    assert not check('mmdet', detection(tmp_path, box(-0.5, 0, WIDTH + 1, HEIGHT)))


@pytest.mark.parametrize(
    ('change', 'kind', 'name'),
    [
        (edit('images', 1, id=1), 'duplicate-id', 'images: id 1, 2 times'),
        (
            edit('annotations', 1, id=71, image_id=1),
            'duplicate-id',
            'annotations: id 71',
        ),
        (edit('categories', 1, id=3), 'duplicate-id', 'categories: id 3'),
        (lambda x: x['annotations'][0].pop('area'), 'annotation-broken', 'first.png'),
        (box('2', 3, 9, 9), 'annotation-broken', 'annotation 71 of first.png'),
        (box(2, 3, 9), 'annotation-broken', 'annotation 71 of first.png'),
        (lambda x: x['images'][0].pop('file_name'), 'annotation-broken', 'number 0'),
        (lambda x: x.pop('images'), 'dataset-broken', 'truth.json'),
    ],
)
def test_annotations_that_are_broken(tmp_path, change, kind, name):
    """Others follow from these, such as images without annotations."""
    found = check('mmdet', detection(tmp_path, change))
    assert kind in ERRORS and any(name in item for item in found[kind]), found


def test_only_an_evaluation_needs_iscrowd(tmp_path):
    dataset = detection(tmp_path, lambda x: x['annotations'][0].pop('iscrowd'))
    assert not check('mmdet', dataset)
    found = check('mmdet', dict(dataset, test_mode=True))
    assert_only(found, 'annotation-broken', 'error', "first.png: KeyError: 'iscrowd'")


def test_images_without_annotations_and_the_other_way_round(tmp_path):
    found = check('mmdet', detection(tmp_path, edit('annotations', image_id=9)))
    assert found == {'image-unlisted': ['image 9'], 'image-unannotated': ['first.png']}
    assert {'image-unlisted', 'image-unannotated'} <= WARNINGS.keys()


def test_nothing_is_left_to_train_on(tmp_path):
    dataset = detection(tmp_path, lambda truth: truth['annotations'].clear())
    found = check('mmdet', dataset)
    assert {'nothing-left', 'nothing-annotated'} == found.keys() & ERRORS.keys()
    del dataset['filter_cfg']
    assert check('mmdet', dataset).keys() & ERRORS.keys() == {'nothing-annotated'}
    dataset['test_mode'] = True
    assert not check('mmdet', dataset).keys() & ERRORS.keys()


@pytest.mark.parametrize(
    ('classes', 'kind'),
    [
        (('cat', 'bird'), 'classes-unlike-data'),
        (('dog', 'cat'), 'classes-unlike-data'),
        (('cat', 'dog', 'bird'), 'classes-unlike-data'),
        (('cat',), 'classes-left-out'),
        (None, 'classes-unlike-data'),  # COCO's, all others are missing
    ],
)
def test_class_lists_of_detection(tmp_path, classes, kind):
    dataset = detection(tmp_path, metainfo=classes and {'classes': classes})
    found = check('mmdet', dataset)
    (text,) = found.pop(kind)
    config = f'{len(classes)} ({", ".join(classes)})' if classes else '80 (person, '
    assert f'config: {config}' in text and 'file: 2 (cat, dog)' in text
    assert not found
    severity = 'warning' if classes == ('cat',) else 'error'
    assert kind in {'error': ERRORS, 'warning': WARNINGS}[severity]


@pytest.mark.parametrize(
    ('mask', 'kind', 'severity'),
    [
        (b'', 'mask-unreadable', 'error'),
        (encode(noise(mode='L'))[:900], 'mask-unreadable', 'error'),
        (encode(noise()), 'mask-channels', 'error'),
        (encode(Image.new('LA', SIZE)), 'mask-channels', 'error'),
        (encode(Image.new('L', SIZE[::-1])), 'mask-size', 'error'),
        (encode(Image.new('L', SIZE, 2)), 'mask-ids', 'error'),
        # as a byte, mmseg reads 256 as 0
        (encode(Image.new('I;16', SIZE, 256)), 'mask-ids', 'error'),
        (encode(Image.new('L', SIZE, 255)), 'mask-ignored', 'warning'),
        (encode(Image.new('1', (20_001, 2))), 'mask-huge', 'warning'),
    ],
)
def test_masks(tmp_path, mask, kind, severity):
    dataset = segmentation(tmp_path, mask)
    assert_only(check('mmseg', dataset), kind, severity, 'masks/first.png')


def test_masks_with_a_palette_or_one_bit_are_fine(tmp_path):
    palette = Image.new('P', SIZE, 1)
    palette.putpalette([0, 0, 0, 200, 30, 90])
    for mask in (palette, Image.new('1', SIZE, 1)):
        assert not check('mmseg', segmentation(tmp_path, encode(mask)))


def test_masks_of_turned_images_and_missing_ones(tmp_path):
    dataset = segmentation(tmp_path)
    write(tmp_path / 'images' / 'first.jpg', turned(6))
    found = check('mmseg', dataset)
    assert found.keys() == {'image-rotated', 'mask-size'}
    assert 'first.png: 40x30, the image has 30x40' in found['mask-size'][0]
    write(tmp_path / 'images' / 'first.jpg', encode(noise(), 'JPEG'))
    (tmp_path / 'masks' / 'first.png').unlink()
    assert_only(check('mmseg', dataset), 'mask-missing', 'error', 'masks/first.png')
    pipeline = [dict(type='LoadImageFromFile')]
    report = check_config(config('mmseg', {**dataset, 'pipeline': pipeline}))
    assert not report.findings and 'no masks' in report.datasets[0]['note']


def test_ids_after_zero_is_ignored_and_classes_are_left_out(tmp_path):
    """Of ADE20K's 150 classes the id 150 is the last one, and 0 is ignored."""
    ade = dict(type='ADE20KDataset', reduce_zero_label=True)
    for classes in (None, {'classes': ('sky', 'wall')}):
        for number, kinds in ((0, ['mask-ignored']), (150, []), (151, ['mask-ids'])):
            mask = encode(Image.new('L', SIZE, number))
            dataset = segmentation(tmp_path, mask, **ade, metainfo=classes)
            write(tmp_path / 'masks' / 'second.png', encode(Image.new('L', SIZE, 1)))
            assert list(check('mmseg', dataset)) == kinds, (classes, number)


def test_ids_without_a_class_list_are_those_of_the_head(tmp_path):
    dataset = segmentation(tmp_path, encode(Image.new('L', SIZE, 5)), metainfo=None)
    assert not check('mmseg', dataset)
    model = dict(decode_head=[dict(num_classes=9), dict(num_classes=5)])
    found = check('mmseg', dataset, model=model)
    assert_only(found, 'mask-ids', 'error', 'first.png: 5; there are 5 classes')


def test_class_folders(tmp_path):
    dataset = classification(tmp_path)
    (tmp_path / 'empty').mkdir()
    dataset['metainfo'] = {'classes': (*CLASSES, 'empty')}
    assert_only(check('mmpretrain', dataset), 'class-empty', 'warning', 'empty')
    for classes in (('dog', 'cat', 'empty'), ('cat', 'dogs', 'empty')):
        dataset['metainfo'] = {'classes': classes}
        found = check('mmpretrain', dataset)
        (text,) = found['classes-unlike-data']
        assert f'config: 3 ({", ".join(classes)})' in text
        assert 'folders: 3 (cat, dog, empty)' in text
    dataset['metainfo'] = {'classes': tuple('abc')}
    found = check('mmpretrain', dataset)
    assert found.keys() == {'classes-renamed', 'class-empty'} <= WARNINGS.keys()
    dataset['metainfo'] = {'classes': CLASSES}
    write(tmp_path / 'cat' / 'first.png', b'')
    found = check('mmpretrain', dataset)  # the library cannot list it, images are
    assert found.keys() == {'classes-unlike-data', 'dataset-broken', 'image-unreadable'}


def test_folders_without_images_or_missing(tmp_path):
    dataset = classification(tmp_path)
    for path in tmp_path.glob('*/*.png'):
        path.unlink()
    assert_only(check('mmpretrain', dataset), 'dataset-broken', 'error', '0 files')
    dataset['data_root'] = str(tmp_path / 'nowhere')
    assert_only(check('mmpretrain', dataset), 'file-missing', 'error', 'nowhere')
    empty = segmentation(tmp_path, data_prefix={'img_path': 'cat', 'seg_map_path': ''})
    assert_only(check('mmseg', empty), 'nothing-left', 'error', 'cat')
    dataset = detection(tmp_path, ann_file='nowhere.json')
    assert_only(check('mmdet', dataset), 'file-missing', 'error', 'nowhere.json')


def test_annotation_lists_of_classification(tmp_path):
    dataset = classification(tmp_path, ann_file='list.txt', data_prefix='')
    (tmp_path / 'list.txt').write_text('cat/first.png 0\ndog/second.png 2\n')
    found = check('mmpretrain', dataset)
    assert found.keys() == {'label-unknown', 'class-empty'}
    assert 'dog/second.png: 2 of 2 classes' in found['label-unknown'][0]
    (tmp_path / 'list.txt').write_text('cat/first.png 0\nno/third.png 1\n')
    found = check('mmpretrain', dataset)
    assert_only(found, 'image-missing', 'error', 'no/third.png')
    (tmp_path / 'list.txt').write_text('cat/first.png\n')
    found = check('mmpretrain', dataset)
    assert_only(found, 'dataset-broken', 'error', 'list.txt: ValueError')


WRAPPERS = {
    'RepeatDataset': lambda x: dict(type='RepeatDataset', times=3, dataset=x),
    'ClassBalancedDataset': lambda x: dict(
        type='ClassBalancedDataset', oversample_thr=0.1, dataset=x
    ),
    'MultiImageMixDataset': lambda x: dict(
        type='MultiImageMixDataset', dataset=x, pipeline=[]
    ),
    'ConcatDataset': lambda x: dict(
        type='ConcatDataset',
        datasets=[x, dict(type='RepeatDataset', times=2, dataset=x)],
    ),
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_wrapped_datasets(tmp_path, name):
    dataset = detection(tmp_path)
    write(tmp_path / 'images' / 'first.png', b'')
    report = check_config(config('mmdet', WRAPPERS[name](dataset)))
    assert_only(findings(report), 'image-unreadable', 'error', 'images/first.png')
    assert {entry['type'] for entry in report.datasets} == {'CocoDataset'}
    assert len(report.datasets) == (2 if name == 'ConcatDataset' else 1)


def test_types_that_are_not_known(tmp_path):
    dataset = classification(tmp_path, b'')
    items = [
        {'img_path': f'{x}.png', 'gt_label': 0} for x in ('cat/first', 'dog/second')
    ]
    truth = {'metainfo': {}, 'data_list': items}
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    dataset |= dict(type='BaseDataset', ann_file='truth.json', data_prefix='')
    report = check_config(config('mmpretrain', dataset))
    assert_only(findings(report), 'image-unreadable', 'error', 'first.png')
    assert 'only the images are checked' in report.datasets[0]['note']
    mnist = dict(type='MNIST', data_prefix=str(tmp_path / 'mnist'))
    report = check_config(config('mmpretrain', mnist))
    assert not report.findings and 'nothing is checked' in report.datasets[0]['note']
    assert not (tmp_path / 'mnist').exists()
    tasks = dict(type='MultiTaskDataset', ann_file='', metainfo={}, data_root='')
    report = check_config(config('mmpretrain', tasks))
    assert not report.findings and 'not known' in report.datasets[0]['note']
    array = dict(detection(tmp_path), pipeline=[dict(type='LoadImageFromNDArray')])
    report = check_config(config('mmdet', array))
    assert not report.findings and 'nothing is decoded' in report.datasets[0]['note']
    found = check('mmdet', dict(dataset, type='NoSuchDataset'))
    assert_only(found, 'dataset-broken', 'error', 'NoSuchDataset')


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run the tool on a config; return its exit status, stdout and stderr."""
    monkeypatch.delenv('MMGHOSTNETV2_DEBUG', raising=False)
    path = tmp_path / 'config.py'

    def main(cfg, *argv):
        cfg.dump(path)
        tool = load_tool(TOOL)
        with pytest.raises(SystemExit) as info:
            run_tool(partial(tool.main, [str(path), *map(str, argv)]))
        return info.value.code or 0, *capsys.readouterr()

    return main


def test_the_table_is_the_json(tmp_path, run):
    out = tmp_path / 'findings.json'
    cfg = config('mmdet', detection(tmp_path / 'train', box(2, 3, 0, 9)))
    status, text, _ = run(cfg, '--json', out)
    assert status == 0
    assert 'train: CocoDataset, 2 images\n' in text
    dataset = detection(tmp_path / 'val')
    for name in SAMPLES:
        write(tmp_path / 'val/images' / f'{name}.png', b'')
    cfg.val_dataloader = cfg.test_dataloader = dict(dataset=dataset)
    status, text, err = run(cfg, '--json', out)
    assert status == 1 and 'exists; --force overwrites it' in err
    status, text, err = run(cfg, '--json', out, '--force')
    assert status == 1
    assert (
        err.splitlines()[-1] == f'error: {tmp_path}/config.py: the data have 4 errors'
    )
    result = json.loads(out.read_text())
    table = [line.strip('| ').split(' | ') for line in text.splitlines() if '|' in line]
    assert table[2:] == [
        [x['split'], x['severity'], x['kind'], '; '.join(x['items']), str(x['count'])]
        for x in result['findings']
    ]
    assert [row[:3] + row[4:] for row in table[2:]] == [
        ['val', 'error', 'image-unreadable', '2'],
        ['test', 'error', 'image-unreadable', '2'],
        ['train', 'warning', 'box-tiny', '1'],
    ]
    assert [x['images'] for x in result['datasets']] == [2, 2, 2]
    for kind in ('box-tiny', 'image-unreadable'):
        assert f'- {kind}: {(ERRORS | WARNINGS)[kind]}\n' in text
    status, text, _ = run(cfg, '--splits', 'train')
    assert status == 0 and 'val' not in text.split('|', 1)[1]


def test_a_config_without_data(tmp_path, run):
    status, out, err = run(Config(dict(default_scope='mmdet', val_dataloader=None)))
    assert (status, out) == (1, '')
    assert 'no dataset in train_dataloader, val_dataloader, test_dataloader' in err
    status, _, err = run(
        config('mmdet', detection(tmp_path)), '--splits', 'train', 'val'
    )
    assert status == 1 and 'the config has no dataset in val_dataloader' in err


def test_mmdet_drops_boxes_and_renames_classes(tmp_path):
    """What is an error here and passes there in silence."""
    for change in (
        box(40, 3, 9, 9),
        box(20, 20, -9, -9),
        box(2, float('nan'), 9, 9),
        box(2, 3, 9, 9, area=0),
        edit('annotations', category_id=9),
    ):
        data = library('mmdet', detection(tmp_path, change, filter_cfg=None))
        kept = [data.get_data_info(index)['instances'] for index in (0, 1)]
        assert [len(instances) for instances in kept] == [0, 1]
    COCO = pytest.importorskip('pycocotools.coco').COCO
    COCOeval = pytest.importorskip('pycocotools.cocoeval').COCOeval
    detection(tmp_path, lambda truth: truth['annotations'][0].pop('iscrowd'))
    truth = COCO(str(tmp_path / 'truth.json'))
    boxes = [dict(x, score=0.9) for x in truth.dataset['annotations']]
    with pytest.raises(KeyError, match='iscrowd'):
        COCOeval(truth, truth.loadRes(boxes), 'bbox').evaluate()
    data = library('mmdet', detection(tmp_path, box(2, 3, float('inf'), 9)))
    assert data.get_data_info(0)['instances'][0]['bbox'][2] == float('inf')
    data = library('mmdet', detection(tmp_path, metainfo={'classes': ('dog', 'cat')}))
    label = data.get_data_info(0)['instances'][0]['bbox_label']
    assert data.metainfo['classes'][label] == 'dog'  # it is the cat
    same_id = edit('annotations', 1, id=71, image_id=1)
    with pytest.raises(AssertionError, match='not unique'):
        library('mmdet', detection(tmp_path, same_id))


@pytest.mark.parametrize('size', [(2, 1100), (1, 3000)])
def test_extreme_ratios_cannot_be_resized(tmp_path, size):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(250, 250), keep_ratio=True),
    ]
    truth = edit('images', width=size[0], height=size[1])
    dataset = detection(tmp_path, truth, pipeline=pipeline)
    write(tmp_path / 'images' / 'first.png', encode(noise(size)))
    data = library('mmdet', dataset)
    with pytest.raises(Exception, match='resize'):
        data[0]


def test_mmseg_fails_on_bad_masks(tmp_path):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]

    def loss(mask):
        data = library('mmseg', segmentation(tmp_path, mask, pipeline=pipeline))
        target = data[0]['data_samples'].gt_sem_seg.data
        scores = torch.zeros(1, 2, *target.shape[1:])
        return cross_entropy(scores, target.long(), ignore_index=255)

    assert loss(None) > 0
    with pytest.raises(IndexError, match='Target 2 is out of bounds'):
        loss(encode(Image.new('L', SIZE, 2)))
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        loss(encode(noise()))
    # as a byte, 256 is the first class
    assert loss(encode(Image.new('I;16', SIZE, 256))) > 0


def test_truncated_images_stop_a_training(tmp_path):
    pipeline = [dict(type='LoadImageFromFile')]
    dataset = classification(tmp_path, encode(noise(), 'JPEG')[:300], pipeline=pipeline)
    with pytest.raises(AssertionError, match='failed to load image'):
        library('mmpretrain', dataset)[0]
