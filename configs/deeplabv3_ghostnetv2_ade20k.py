# Paper, section 5.3 and Table 5: mmseg's recipe of MobileNetV2 (160k iterations of 16
# crops of 512x512, output stride 8) with GhostNetV2 as the backbone.
_base_ = [
    '_base_/models/deeplabv3_ade20k.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/ade20k_160k.py',
]

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook'))

model = dict(
    backbone=dict(
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        output_stride=8,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    decode_head=dict(in_channels=160),
    auxiliary_head=dict(in_channels=112),
)
