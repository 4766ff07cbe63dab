# Paper, section 5.2 and Table 3: mmdet's recipe of MobileNetV2 (SGD, lr 0.003, batch
# 192, 30 epochs) with GhostNetV2 as the backbone.
_base_ = 'mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py'

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
        out_indices=(4, 6, 8),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(in_channels=[160, 112, 40]),
)
