# YOLOv3 with GhostNetV2 at 320 pixels on handwritten digits: the COCO config with
# different data, classes, schedule and initial weights.
_base_ = '../yolov3_ghostnetv2_320.py'

classes = tuple('0123456789')
max_epochs = 6
model = dict(
    backbone=dict(
        # The pre-trained features of the first stages are good enough. A step that
        # does not train them takes 0.7 of the time.
        frozen_stages=2,
        init_cfg=dict(
            checkpoint='work_dirs/ghostnetv2_100_digits/epoch_2.pth',
            prefix='backbone.',
        ),
    ),
    bbox_head=dict(num_classes=len(classes)),
)

data_root = 'data/digits/detection/'
# There is no flip, because a mirrored digit is a different sign, and little other
# augmentation, which helps in long trainings only.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale={{_base_.input_size}}, keep_ratio=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=6,
    num_workers=1,
    dataset=dict(
        times=1,
        dataset=dict(
            data_root=data_root,
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=classes),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=12,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.02, fused=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type='ChannelsLastHook')]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
