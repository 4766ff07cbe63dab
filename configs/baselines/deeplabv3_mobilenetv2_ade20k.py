# MobileNetV2 in DeepLabV3 (paper, Table 5): mmseg's config, with the import
# that lets torch >= 2.6 read checkpoints of mmengine.
_base_ = [
    '../_base_/models/deeplabv3_ade20k.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
]

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

model = dict(
    pretrained='mmcls://mobilenet_v2',
    backbone=dict(
        type='MobileNetV2',
        widen_factor=1.0,
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    decode_head=dict(in_channels=320),
    auxiliary_head=dict(in_channels=96),
)
