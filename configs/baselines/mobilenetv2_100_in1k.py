# MobileNetV2 (paper, Table 4) by the recipe of GhostNetV2's released weights.
_base_ = '../ghostnetv2_100_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=1.0),
    head=dict(
        _delete_=True,
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss={{_base_.model.head.loss}},
        topk=(1, 5),
    ),
)
