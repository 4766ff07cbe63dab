"""SSD's head for mmdet; a config that uses it names this module in custom_imports."""

from mmdet.models import SSDHead as MMDetSSDHead

from .registry import MODELS


@MODELS.register_module()
class SSDHead(MMDetSSDHead):
    """mmdet's SSDHead, able to predict, which it is not in mmdet 3.3.0.

    There the prediction of every dense head asks ``loss_cls`` whether it has channels
    of its own, an attribute that SSDHead lacks, whose loss is a function.
    """

    loss_cls = None
