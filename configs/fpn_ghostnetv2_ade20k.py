# A head as light as the backbone: FPN over strides 4 to 32, in mmseg's Semantic FPN
# recipe with fewer channels.
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
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/huawei-noah/Efficient-AI-Backbones/releases/'
            'download/GhostNetV2/ck_ghostnetv2_10.pth.tar',
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 160], out_channels=channels),
    decode_head=dict(in_channels=[channels] * 4, channels=channels),
)
