# mmseg's UPerNet recipe. Its head is large; fpn_ghostnetv2_ade20k.py has a light one.
_base_ = [
    '../_base_/models/encoder_decoder_ade20k.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
]

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook'))

model = dict(
    backbone=dict(
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[24, 40, 112, 160],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
    ),
    auxiliary_head=dict(in_channels=112),
)
