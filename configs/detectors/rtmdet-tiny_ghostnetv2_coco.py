# mmdet's RTMDet-tiny recipe, with the colour normalisation of the released
# weights.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    classes=dict(type='CheckClassesHook'),
)
# Workers that start at each epoch with torch's seeds let a resumed training be exact.
train_dataloader = dict(
    persistent_workers=False, worker_init_fn=dict(type='keep_torch_seeds')
)

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(4, 6, 8),
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(in_channels=[40, 112, 160]),
)
