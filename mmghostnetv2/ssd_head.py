"""SSD's head for mmdet; its users need mmdet, the rest of the package does not."""

from mmdet.models import SSDHead


class PredictingSSDHead(SSDHead):
    """mmdet's SSDHead with the attribute that its prediction needs.

    In mmdet 3.3.0 the prediction of every dense head reads ``self.loss_cls``. SSDHead
    computes its loss by a function and lacks that attribute, so it trains but cannot
    predict.
    """

    loss_cls = None
