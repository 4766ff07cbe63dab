# GhostNet V1 1.1x in YOLOv3 (paper, Table 3). There are no public weights of this
# width, so train the classifier, configs/baselines/ghostnet_110_in1k.py, first.
_base_ = '../yolov3_ghostnetv2_416.py'

model = dict(
    backbone=dict(
        type='GhostNet',
        widen_factor=1.1,
        init_cfg=dict(
            checkpoint='work_dirs/ghostnet_110_in1k/epoch_450.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[176, 124, 44]),
)
