# mmdet's RetinaNet 1x recipe. As in that recipe, the stages up to stride 4 are
# frozen.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

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
    backbone=dict(
        _delete_=True,
        type='GhostNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6, 8),
        frozen_stages=2,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(in_channels=[24, 40, 112, 160]),
)
