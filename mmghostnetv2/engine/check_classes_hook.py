"""A class list that does not match the annotations is an error before training."""

import json
from typing import Any

from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..data_checks import check_classes, inner_datasets
from ..registry import HOOKS, register


@register(HOOKS)
class CheckClassesHook(Hook):
    """Compares the class list of mmdet's CocoDataset with the annotation file.

    mmdet drops the boxes of categories that are not in the class list, and numbers the
    others in the order of the file. Without ``metainfo``, the class list is that of
    COCO, and own data would be trained with wrong names, or with no boxes, without an
    error.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the datasets of training and validation.

        Raises:
            ValueError: A class list does not match its file; the message has both.
        """
        self._check(runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            self._check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the dataset of the test, as :meth:`before_train` does."""
        self._check(runner.test_dataloader.dataset)

    def _check(self, dataset: Any) -> None:
        from mmdet.datasets import CocoDataset

        for inner in inner_datasets(dataset):
            # Others, such as LVIS, number their classes in their own way.
            loads = getattr(type(inner), 'load_data_list', None)
            if loads is CocoDataset.load_data_list:
                classes = inner.metainfo['classes']
                is_default = classes == CocoDataset.METAINFO['classes']
                # The large file of COCO itself is not read twice.
                if not (is_default and len(inner.cat_ids) == len(classes)):
                    _check_coco(inner)


def _check_coco(dataset: Any) -> None:
    text = fileio.get_text(dataset.ann_file, backend_args=dataset.backend_args)
    names = [category['name'] for category in json.loads(text)['categories']]
    found: dict[str, Any] = {}
    check_classes(dataset.metainfo['classes'], names, found.__setitem__)
    if 'classes-unlike-data' in found:
        raise ValueError(
            f'the class list does not match the categories of {dataset.ann_file}; '
            f'{found["classes-unlike-data"]}. For all of them, set '
            f'metainfo=dict(classes={tuple(names)}) in every dataset and '
            f'num_classes={len(names)} in the head'
        )
