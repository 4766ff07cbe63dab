# mmseg's Semantic FPN recipe (strides 4 to 32) with fewer channels, so that the head is
# as light as the backbone.
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

channels = 96
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(in_channels=[24, 40, 112, 160], out_channels=channels),
    decode_head=dict(in_channels=[channels] * 4, channels=channels),
)
