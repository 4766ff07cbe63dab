# FPN with GhostNetV2 on handwritten digits: the ADE20K config with different data,
# classes, schedule and initial weights.
_base_ = '../segmentors/fpn_ghostnetv2_ade20k.py'

classes = ('background', *'0123456789')
max_iters = 900
crop_size = (160, 160)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/ghostnetv2_100_digits/epoch_2.pth',
            prefix='backbone.',
        )
    ),
    neck=dict(norm_cfg=dict(type='BN')),
    decode_head=dict(num_classes=len(classes)),
)

# The background is grey; the ten colours of the digits differ as much as possible.
palette = [
    [128, 128, 128],
    [230, 25, 75],
    [60, 180, 75],
    [255, 225, 25],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 240, 240],
    [240, 50, 230],
    [210, 245, 60],
    [0, 0, 128],
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root='data/digits/segmentation',
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True,
)
# A crop is a quarter of a picture: in the same time, more steps teach more than larger
# images. There is no flip, because a mirrored digit is a different sign, and no change
# of colours, because the data already have many.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        dataset,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        dataset,
        data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation'
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 3)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.02, fused=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-5, by_epoch=False),
]
custom_hooks = [dict(type='ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=max_iters // 3, max_keep_ckpts=2),
    visualization=dict(interval=4),  # with --show-dir, draw every fourth picture
)
randomness = dict(seed=0)
