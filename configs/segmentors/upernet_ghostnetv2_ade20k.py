# mmseg's UPerNet recipe. Its head is large; fpn_ghostnetv2_ade20k.py has a light one.
_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

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
    decode_head=dict(in_channels=[24, 40, 112, 160]),
    auxiliary_head=dict(in_channels=112),
)
