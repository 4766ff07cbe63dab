# mmdet's SSDLite recipe at 320 pixels. It trains MobileNetV2 from scratch; this one
# starts from the released weights, and so with the batch norms that they come from.
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'

custom_imports = dict(
    imports=['mmghostnetv2', 'mmghostnetv2.ssd_head'], allow_failed_imports=False
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(6, 9),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/huawei-noah/Efficient-AI-Backbones/releases/'
            'download/GhostNetV2/ck_ghostnetv2_10.pth.tar',
        ),
    ),
    neck=dict(in_channels=(112, 960), out_channels=(112, 960, 512, 256, 256, 128)),
    bbox_head=dict(
        type='mmghostnetv2.SSDHead',  # mmdet 3.3.0 cannot predict with its own
        in_channels=(112, 960, 512, 256, 256, 128),
    ),
)
