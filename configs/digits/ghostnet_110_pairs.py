# GhostNet V1 at width 1.1, which has the FLOPs of GhostNetV2 1.0x (paper, Table 2).
# Everything else is the same.
_base_ = './ghostnetv2_100_pairs.py'

model = dict(
    backbone=dict(type='GhostNet', widen_factor=1.1),
    head=dict(in_channels=1056),
)
