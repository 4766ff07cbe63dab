"""Check of the images and labels that a config of mmpretrain, mmdet or mmseg reads.

Each dataset is built and its samples are listed by the library's own class, so that the
paths, classes and filters are those of a training. What the library would accept or
drop in silence is checked here: the annotation file, the label ids, and every image.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO, StringIO
from math import isfinite
from multiprocessing.pool import ThreadPool
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import ExifTags, Image, UnidentifiedImageError

from .output import progress

SPLITS = ('train', 'val', 'test')
MAX_SIDE = 20_000  # pixels; larger images are not decoded, they may not fit in memory
MAX_RATIO = 500  # resized to 250 pixels, the short side of such an image rounds to 0
EDGE_TOLERANCE = 1  # pixels; annotation tools round boxes beyond the image's edge
MAX_NAMES = 12  # of a class list in a message

ERRORS = {  # training fails, or learns something wrong in silence
    'file-missing': 'an annotation file or a folder does not exist',
    'dataset-broken': 'the library fails to build the dataset or to list its samples',
    'nothing-left': 'no image is left after filter_cfg, or there is none',
    'nothing-annotated': 'no image has a box that mmdet keeps',
    'image-missing': 'the image does not exist',
    'image-unreadable': 'the image is empty, truncated or cannot be decoded',
    'image-size': 'the loaded image has a different size than the annotations say',
    'image-ratio': f'one side is over {MAX_RATIO} times the other, so resizing fails',
    'duplicate-id': 'the id occurs more than once',
    'annotation-broken': 'a key is missing, or its value has a wrong type',
    'box-not-finite': 'the box has NaN or infinity',
    'box-negative': 'the width or height is negative; mmdet drops the box',
    'box-outside': 'the box is outside of the image; mmdet drops the box',
    'box-area': "the key 'area' is not positive; mmdet drops the box",
    'category-unknown': 'the file has no such category; mmdet drops the box',
    'classes-unlike-data': 'the class list does not match the names in the data',
    'label-unknown': 'the label is not an index of the class list',
    'mask-missing': 'the mask does not exist',
    'mask-unreadable': 'the mask is empty, truncated or cannot be decoded',
    'mask-channels': 'the mask is not one channel of ids',
    'mask-size': 'the mask has a different size than the loaded image',
    'mask-ids': 'the mask has ids that no class has',
}
WARNINGS = {  # worth knowing; the libraries cope with it
    'image-thin': 'a side is under 2 pixels',
    'image-huge': 'the image is too large to be decoded in this check',
    'image-16-bit': 'the image has 16 bits a channel; the loader keeps 8',
    'image-cmyk': 'the image is CMYK; the loader turns it into RGB without a profile',
    'image-alpha': 'the loader drops the alpha channel, and hidden colours appear',
    'image-rotated': 'the loader turns the image as EXIF says; do labels fit to that?',
    'image-unannotated': 'the image has no annotation',
    'image-unlisted': 'the image is not listed; its annotations are not used',
    'box-tiny': 'a side of the box is under one pixel; mmdet drops the box',
    'box-over-edge': 'the box sticks out of the image',
    'classes-left-out': 'mmdet drops the boxes of names that the class list lacks',
    'classes-renamed': 'no class has the name of a folder; do both have one order?',
    'class-empty': 'the class has no image',
    'mask-huge': 'the mask is too large to be decoded in this check',
    'mask-ignored': 'all pixels of the mask are ignored',
}
# Classes whose labels are known here, and their library; subclasses are checked alike.
FAMILIES = {
    'CocoDataset': 'mmdet',
    'CustomDataset': 'mmpretrain',
    'BaseSegDataset': 'mmseg',
}

Add = Callable[[str, object], None]  # add(kind, item) to a report
Ids = tuple[set[int], set[int]]  # of classes, and of pixels that are ignored


@dataclass
class Report:
    """What was checked and what was found.

    Attributes:
        datasets (list[dict]): For each dataset its split, type, number of images, and
            a note on what was not checked.
        findings (dict): For each (split, kind) the files or ids, each once, in order.
    """

    datasets: list[dict] = field(default_factory=list)
    findings: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)

    def add(self, split: str, kind: str, item: object) -> None:
        """Add a finding, a key of ``ERRORS`` or ``WARNINGS``, and its file or id."""
        items = self.findings.setdefault((split, kind), {})
        items[' '.join(str(item).split())] = None

    def to_list(self) -> list[dict]:
        """Return the findings as JSON has them, errors first."""
        found = [
            {
                'split': split,
                'kind': kind,
                'severity': 'error' if kind in ERRORS else 'warning',
                'meaning': ERRORS.get(kind) or WARNINGS[kind],
                'count': len(items),
                'items': list(items),
            }
            for (split, kind), items in self.findings.items()
        ]
        return sorted(found, key=lambda finding: finding['severity'])


@dataclass(frozen=True, slots=True)
class Picture:
    """The content of an image or mask: what is wrong, (width, height), the mask's ids.

    ``size`` is that of the loaded image, which is turned as EXIF says. It is None if
    the file was not decoded.
    """

    problems: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] | None = None
    ids: tuple[int, ...] | None = None


def describe(error: Exception) -> str:
    """Return the type and the message of an exception."""
    return f'{type(error).__name__}: {error}'


def names_text(names: Sequence[object]) -> str:
    """Return a list of class names, shortened, with its length."""
    more = ', ...' if len(names) > MAX_NAMES else ''
    return f'{len(names)} ({", ".join(map(str, names[:MAX_NAMES]))}{more})'


def orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 (upright) if there is none or EXIF is broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the loader ignores broken EXIF, too
        return 1


def inspect_image(data: bytes) -> Picture:
    """Decode an image by Pillow, which is strict, and as the libraries load it."""
    problems = []
    with Image.open(BytesIO(data)) as image:
        short, long = sorted(image.size)
        size = f'{image.width}x{image.height} pixels'
        if long > MAX_SIDE:
            return Picture((('huge', size),))
        # Pillow reads 16-bit colours as 8-bit ones: only its decoder's arguments tell,
        # and only before it decodes. 'BGR;16' has 16 bits for all three channels.
        if re.search(r'(?<!BGR);16', str(image.tile)):
            problems.append(('16-bit', ''))
        if image.mode == 'CMYK':
            problems.append(('cmyk', ''))
        if image.has_transparency_data:
            problems.append(('alpha', ''))
        if (turned := orientation(image)) != 1:
            problems.append(('rotated', f'orientation {turned}'))
        image.load()
    if short < 2:
        problems.append(('thin', size))
    if long > MAX_RATIO * short:
        problems.append(('ratio', size))
    loaded = mmcv.imfrombytes(data)
    if loaded is None:
        raise ValueError('OpenCV cannot decode it')
    return Picture(tuple(problems), (loaded.shape[1], loaded.shape[0]))


def inspect_mask(data: bytes) -> Picture:
    """Decode a mask as mmseg's LoadAnnotations does."""
    with Image.open(BytesIO(data)) as image:
        size, mode = image.size, image.mode
        if max(size) > MAX_SIDE:
            return Picture((('huge', f'{size[0]}x{size[1]} pixels'),))
        array = np.asarray(image)
    if array.squeeze().ndim != 2:
        return Picture((('channels', f'mode {mode}, shape {array.shape}'),), size)
    # np.unique sorts all pixels, which takes longer than decoding them.
    bytewise = array.dtype == np.uint8
    ids = np.flatnonzero(np.bincount(array.ravel())) if bytewise else np.unique(array)
    return Picture((), size, tuple(map(int, ids)))


def inspect(job: tuple[str, str, dict | None]) -> Picture:
    """Inspect a file; ``job`` is 'image' or 'mask', its path, and backend_args."""
    what, path, backend_args = job
    try:
        data = fileio.get(path, backend_args=backend_args)
        if not data:
            return Picture((('unreadable', 'the file is empty'),))
        return inspect_image(data) if what == 'image' else inspect_mask(data)
    except FileNotFoundError:
        return Picture((('missing', ''),))
    except UnidentifiedImageError:  # its message has the address of an object
        return Picture((('unreadable', 'not an image'),))
    except Image.DecompressionBombError as error:
        return Picture((('huge', str(error)),))
    except Exception as error:
        return Picture((('unreadable', describe(error)),))


def box_problem(annotation: dict, image: dict) -> str | None:
    """Return what is wrong with the box of an annotation of COCO, if any.

    Raises:
        KeyError, TypeError, ValueError: The annotation or the image lacks a key, or a
            value has a wrong type.
    """
    x, y, width, height = annotation['bbox']
    if not all(map(isfinite, (x, y, width, height))):
        return 'box-not-finite'
    if min(width, height) < 0:
        return 'box-negative'
    if min(width, height) < 1:
        return 'box-tiny'
    right, bottom = x + width - image['width'], y + height - image['height']
    if max(-x - width, -y - height, right - width, bottom - height) >= 0:
        return 'box-outside'
    if annotation['area'] <= 0:
        return 'box-area'
    return 'box-over-edge' if max(-x, -y, right, bottom) > EDGE_TOLERANCE else None


def check_classes(classes: Sequence[str], names: Sequence[str], add: Add) -> None:
    """Compare the class list of a CocoDataset with the names of the file's categories.

    mmdet numbers the categories in the order of the file. So a class that the file
    lacks, or a different order, gives labels to which the class list gives wrong names.
    """
    classes = list(classes)  # a forgotten comma, ('cat'), is read as c, a, t
    kept = [name for name in names if name in classes]
    text = f'config: {names_text(classes)}; file: {names_text(names)}'
    if kept != classes:
        missing = [name for name in classes if name not in names]
        reason = f'missing: {names_text(missing)}' if missing else 'the order differs'
        add('classes-unlike-data', f'{text}; {reason}')
    elif len(names) > len(kept):
        add('classes-left-out', text)


def check_coco(dataset: Any, samples: list[dict] | None, add: Add) -> list[dict]:
    """Check the file of mmdet's CocoDataset; return its images if samples is None."""
    from mmdet.datasets import CocoDataset

    text = fileio.get_text(dataset.ann_file, backend_args=dataset.backend_args)
    coco = json.loads(text)
    annotations, categories = coco.get('annotations', []), coco['categories']
    images, listed = {}, []
    for number, image in enumerate(coco['images']):
        try:
            images[image['id']] = image
            path = fileio.join_path(dataset.data_prefix['img'], image['file_name'])
            size = {'width': image['width'], 'height': image['height']}
            listed.append({'img_path': path, **size})
        except (KeyError, TypeError) as error:
            if samples is None:  # LVIS, for example, has no file_name
                add('annotation-broken', f'image number {number}: {describe(error)}')
    for what in ('images', 'annotations', 'categories'):
        counts = Counter(str(item.get('id')) for item in coco.get(what, []))
        for key, count in counts.items():
            if count > 1:
                add('duplicate-id', f'{what}: id {key}, {count} times')
    # Panoptic segmentation, for example, has segments in place of boxes.
    boxes = type(dataset).parse_data_info is CocoDataset.parse_data_info
    # Others, such as LVIS, have their own order of classes and evaluation.
    plain = type(dataset).load_data_list is CocoDataset.load_data_list
    category_ids, annotated = {item['id'] for item in categories}, set()
    for number, annotation in enumerate(annotations):
        name = f'annotation {annotation.get("id", f"number {number}")}'
        try:
            image = images.get(annotation['image_id'])
            if image is None:
                add('image-unlisted', f'image {annotation["image_id"]}')
                continue
            annotated.add(annotation['image_id'])
            name += f' of {image.get("file_name", annotation["image_id"])}'
            if not boxes or annotation.get('ignore'):
                continue
            if annotation['category_id'] not in category_ids:
                add('category-unknown', f'{name}: {annotation["category_id"]}')
            elif kind := box_problem(annotation, image):
                pixels = f'{image["width"]}x{image["height"]} pixels'
                add(kind, f'{name}: {annotation["bbox"]} in {pixels}')
            elif plain and dataset.test_mode and 'iscrowd' not in annotation:
                # pycocotools needs it, but only after the whole first evaluation.
                raise KeyError('iscrowd')
        except (KeyError, TypeError, ValueError) as error:
            add('annotation-broken', f'{name}: {describe(error)}')
    for key, image in images.items():
        if key not in annotated:
            add('image-unannotated', image.get('file_name', key))
    if plain:
        names = [category['name'] for category in categories]
        check_classes(dataset.metainfo.get('classes', ()), names, add)
    unlabelled = boxes and not any(sample['instances'] for sample in samples or [])
    if samples and unlabelled and not dataset.test_mode:
        add('nothing-annotated', dataset.ann_file)
    return listed if samples is None else samples


def check_folders(
    dataset: Any, classes: Sequence[str] | None, samples: list[dict] | None, add: Add
) -> list[dict]:
    """Check the labels of mmpretrain's CustomDataset; return its images if None.

    ``classes`` is the class list. Without one, the dataset takes the folders' names.
    """
    root, names = dataset.img_prefix, classes
    if not dataset.ann_file and dataset.with_label:
        names = sorted(fileio.list_dir_or_file(root, list_file=False))
        if classes is not None and list(classes) != names:
            text = f'config: {names_text(classes)}; folders: {names_text(names)}'
            if len(classes) != len(names) or set(classes) & set(names):
                add('classes-unlike-data', text)
            elif classes != type(dataset).METAINFO.get('classes'):
                # The folders of ImageNet never have the names of its classes.
                add('classes-renamed', text)
    if samples is None and not dataset.ann_file:
        files = fileio.list_dir_or_file(root, list_dir=False, recursive=True)
        paths = filter(dataset.is_valid_file, files)
        return [{'img_path': fileio.join_path(root, path)} for path in paths]
    if samples and names is not None and dataset.with_label:
        for sample in samples:
            if not 0 <= sample['gt_label'] < len(names):
                text = f'{sample["img_path"]}: {sample["gt_label"]}'
                add('label-unknown', f'{text} of {len(names)} classes')
        used = {sample['gt_label'] for sample in samples}
        for label, name in enumerate(names):
            if label not in used:
                add('class-empty', name)
    return samples or []


def known_ids(dataset: Any, num_classes: int | None) -> Ids | None:
    """Return the ids that masks of mmseg's BaseSegDataset may have.

    ``num_classes`` is used if the dataset has no class list. Without both, return None.
    """
    classes = dataset.metainfo.get('classes')
    if dataset.label_map is not None:  # it maps ids of the original classes
        classes = type(dataset).METAINFO['classes']
    count = len(classes) if classes else num_classes
    if count is None:
        return None
    if dataset.reduce_zero_label:
        return {*range(1, count + 1)}, {0, 255}
    ignored = {255, dataset.ignore_index}
    return {*range(count)} - ignored, ignored


def check_image(sample: dict, image: Picture, add: Add) -> None:
    """Report what is wrong with an image."""
    path = sample['img_path']
    for kind, detail in image.problems:
        add(f'image-{kind}', f'{path}: {detail}' if detail else path)
    expected = sample.get('width'), sample.get('height')
    if image.size and None not in expected and image.size != expected:
        sizes = '{}x{}, annotations have {}x{}'.format(*image.size, *expected)
        add('image-size', f'{path}: {sizes}')


def check_mask(
    path: str, mask: Picture, image: Picture, known: Ids | None, add: Add
) -> None:
    """Report what is wrong with the mask of an image."""
    for kind, detail in mask.problems:
        add(f'mask-{kind}', f'{path}: {detail}' if detail else path)
    if image.size and mask.size and image.size != mask.size:
        sizes = '{}x{}, the image has {}x{}'.format(*mask.size, *image.size)
        add('mask-size', f'{path}: {sizes}')
    if known and mask.ids is not None:
        classes, ignored = known
        if unknown := sorted({*mask.ids} - classes - ignored):
            ids = ', '.join(map(str, unknown[:MAX_NAMES]))
            add('mask-ids', f'{path}: {ids}; there are {len(classes)} classes')
        elif not classes.intersection(mask.ids):
            add('mask-ignored', path)


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the datasets or configs inside of wrappers such as RepeatDataset."""
    if isinstance(dataset, dict):
        inner = dataset.get('datasets') or dataset.get('dataset')
    else:
        inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        yield dataset
        return
    for item in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from inner_datasets(item)


def type_name(cfg: dict) -> str:
    """Return the type in a config, a class or its registered name, without scope."""
    kind = cfg.get('type')
    return getattr(kind, '__name__', None) or str(kind).split('.')[-1]


def family(dataset: BaseDataset) -> str | None:
    """Return the base class whose labels are known here, such as 'CocoDataset'."""
    for base in type(dataset).__mro__:
        if FAMILIES.get(base.__name__) == base.__module__.split('.')[0]:
            return base.__name__
    return None


def build(cfg: dict) -> Any:
    """Build a dataset without its samples and its pipeline.

    Returns:
        BaseDataset | str: The dataset, or the reason why it is not checked.
    """
    kind = cfg.get('type')
    if not isinstance(kind, type):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if kind is not None and not issubclass(kind, BaseDataset):
        return 'nothing is checked, the type is not known'
    try:
        dataset = DATASETS.build({**cfg, 'pipeline': [], 'lazy_init': True})
    except TypeError as error:
        if re.search("unexpected keyword argument '(pipeline|lazy_init)'", str(error)):
            return 'nothing is checked, the type takes no pipeline or no lazy_init'
        raise
    if hasattr(dataset, 'download'):
        return 'nothing is checked, the dataset downloads its own data'
    return dataset


def list_samples(dataset: Any, add: Add) -> list[dict]:
    """List the images with their labels, and check what lists them.

    If the library cannot list them, the images are listed here as far as possible.
    """
    classes, samples = dataset.metainfo.get('classes'), None
    try:
        with redirect_stdout(StringIO()):  # pycocotools prints how long it took
            samples = dataset.load_data_list()
            dataset.data_list = samples
            if not dataset.filter_data():
                add('nothing-left', f'{_source(dataset)}: {len(samples)} before it')
    except Exception as error:
        add(*_failure(error, dataset))
    try:
        if family(dataset) == 'CocoDataset':
            return check_coco(dataset, samples, add)
        if family(dataset) == 'CustomDataset':
            return check_folders(dataset, classes, samples, add)
    except Exception as error:
        add(*_failure(error, dataset))
    return samples or []


def _failure(error: Exception, dataset: BaseDataset) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return 'file-missing', str(error.filename or error)
    return 'dataset-broken', f'{_source(dataset)}: {describe(error)}'


def _source(dataset: BaseDataset) -> str:
    return dataset.ann_file or ', '.join(map(str, dataset.data_prefix.values()))


class _Checker:
    """Checks datasets one after the other and decodes each file once."""

    def __init__(self, num_classes: int | None) -> None:
        self.num_classes = num_classes
        self.report = Report()
        self.pictures: dict[tuple[str, str], Picture] = {}

    def check(self, split: str, cfg: dict) -> None:
        """Check a dataset that is not a wrapper."""
        add, name = partial(self.report.add, split), type_name(cfg)
        entry = {'split': split, 'type': name, 'images': 0, 'note': ''}
        self.report.datasets.append(entry)
        try:
            dataset = build(cfg)
        except Exception as error:
            add('dataset-broken', f'{name}: {describe(error)}')
            return
        if isinstance(dataset, str):
            entry['note'] = dataset
            return
        listed = list_samples(dataset, add)
        samples = [x for x in listed if isinstance(x.get('img_path'), str)]
        entry['images'] = len({sample['img_path'] for sample in samples})
        steps = [type_name(step) for step in cfg.get('pipeline') or []]
        masks = family(dataset) == 'BaseSegDataset'
        if steps and 'LoadImageFromFile' not in steps:
            entry['note'] = 'nothing is decoded, LoadImageFromFile is not used'
            return
        if family(dataset) is None:
            entry['note'] = 'only the images are checked, labels of this type are not'
            if listed and not samples:
                entry['note'] = 'nothing is checked, its samples name no image files'
        elif masks and steps and 'LoadAnnotations' not in steps:
            masks, entry['note'] = False, 'the pipeline loads no masks, none is checked'
        self.decode(split, samples, masks, getattr(dataset, 'backend_args', None))
        known = known_ids(dataset, self.num_classes) if masks else None
        for sample in samples:
            image = self.pictures['image', sample['img_path']]
            check_image(sample, image, add)
            path = sample.get('seg_map_path')
            if masks and path is not None:
                check_mask(path, self.pictures['mask', path], image, known, add)

    def decode(
        self, split: str, samples: list[dict], masks: bool, backend_args: dict | None
    ) -> None:
        """Decode the files that were not decoded yet."""
        files = {('image', sample['img_path']) for sample in samples}
        if masks:
            paths = {sample.get('seg_map_path') for sample in samples} - {None}
            files |= {('mask', path) for path in paths}
        todo = sorted(files - self.pictures.keys())
        if not todo:
            return
        jobs = ((*file, backend_args) for file in todo)
        with ThreadPool() as pool:  # the decoders release Python's lock
            done = progress(pool.imap(inspect, jobs, 16), f'{split} files', len(todo))
            self.pictures.update(zip(todo, done, strict=True))


def check_config(cfg: Config, splits: Sequence[str] | None = None) -> Report:
    """Check the datasets of a config of mmpretrain, mmdet or mmseg.

    Args:
        cfg (Config): The config.
        splits (Sequence[str], optional): Some of ``SPLITS``; those that the config has
            by default.

    Raises:
        ValueError: The config has no data of these splits.
    """
    loaders = {split: cfg.get(f'{split}_dataloader') or {} for split in SPLITS}
    given = {split: x['dataset'] for split, x in loaders.items() if x.get('dataset')}
    missing = [split for split in splits or [] if split not in given]
    if missing or not given:
        names = ', '.join(f'{split}_dataloader' for split in missing or SPLITS)
        raise ValueError(f'the config has no dataset in {names}')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    head = cfg.get('model', {}).get('decode_head') or {}
    # A cascade's last head makes the result.
    head = head[-1] if isinstance(head, (list, tuple)) else head
    checker = _Checker(head.get('num_classes'))
    with warnings.catch_warnings():
        # Pillow warns of broken EXIF and of large images, which the loaders accept.
        warnings.simplefilter('ignore')
        for split in splits or given:
            for dataset_cfg in inner_datasets(given[split]):
                checker.check(split, dataset_cfg)
    return checker.report
