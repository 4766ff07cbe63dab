# mmseg's Semantic FPN recipe (strides 4 to 32) with fewer channels, so that the head is
# as light as the backbone.
_base_ = [
    '../_base_/models/encoder_decoder_ade20k.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
]

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook'))

channels = 96
model = dict(
    backbone=dict(
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(
        type='FPN', in_channels=[24, 40, 112, 160], out_channels=channels, num_outs=4
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[channels] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=channels,
    ),
    auxiliary_head=None,
)
