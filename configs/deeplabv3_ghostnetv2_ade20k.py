# Paper section 5.3 and Table 5: mmseg's MobileNetV2 recipe (160k iterations of 16 crops
# of 512, output stride 8) with another backbone.
_base_ = 'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb4-160k_ade20k-512x512.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        output_stride=8,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/huawei-noah/Efficient-AI-Backbones/releases/'
            'download/GhostNetV2/ck_ghostnetv2_10.pth.tar',
        ),
    ),
    decode_head=dict(in_channels=160),
    auxiliary_head=dict(in_channels=112),
)
