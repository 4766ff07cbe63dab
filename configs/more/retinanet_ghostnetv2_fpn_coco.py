# mmdet's RetinaNet 1x recipe. As there, what works at strides up to 4 is frozen.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        frozen_stages=2,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/huawei-noah/Efficient-AI-Backbones/releases/'
            'download/GhostNetV2/ck_ghostnetv2_10.pth.tar',
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 160]),
)
