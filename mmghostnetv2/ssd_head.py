"""A repair of mmdet's SSD head. Importing this module needs mmdet."""

from mmdet.models import SSDHead


class PredictingSSDHead(SSDHead):
    """mmdet's SSDHead with the attribute ``loss_cls`` that prediction needs.

    In mmdet 3.3.0 the prediction of every dense head reads ``self.loss_cls``. SSDHead
    computes its loss by a function and lacks that attribute, so it can be trained but
    cannot predict.
    """

    loss_cls = None
