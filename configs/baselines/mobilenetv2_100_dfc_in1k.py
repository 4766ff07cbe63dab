# DFC attention on the expanded features of all 17 blocks: 4.37 M parameters and 344.2 M
# FLOPs (paper, Table 4: 4.3 M and 344 M).
_base_ = 'mobilenetv2_100_in1k.py'

model = dict(
    backbone=dict(
        type='mmghostnetv2.MobileNetV2Attention',
        attention=dict(type='DFCAttention'),
        position='expanded',
    )
)
