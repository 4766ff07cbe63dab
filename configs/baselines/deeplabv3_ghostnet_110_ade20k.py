# GhostNet V1 1.1x in DeepLabV3 (paper, Table 5). There are no public weights of
# this width, so train the classifier, configs/baselines/ghostnet_110_in1k.py, first.
_base_ = '../deeplabv3_ghostnetv2_ade20k.py'

model = dict(
    backbone=dict(
        type='GhostNet',
        widen_factor=1.1,
        init_cfg=dict(
            checkpoint='work_dirs/ghostnet_110_in1k/epoch_450.pth', prefix='backbone.'
        ),
    ),
    decode_head=dict(in_channels=176),
    auxiliary_head=dict(in_channels=124),
)
