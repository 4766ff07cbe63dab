# mmdet's SSDLite recipe at 320 pixels. It trains MobileNetV2 from scratch. This config
# starts from the released weights and therefore has their batch norms (eps 1e-5).
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'

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
        out_indices=(6, 9),
        init_cfg=dict(type='Pretrained', checkpoint='ghostnet://ghostnetv2-100'),
    ),
    neck=dict(in_channels=(112, 960), out_channels=(112, 960, 512, 256, 256, 128)),
    bbox_head=dict(
        type='PredictingSSDHead',  # mmdet 3.3.0's SSDHead cannot predict
        in_channels=(112, 960, 512, 256, 256, 128),
    ),
)
