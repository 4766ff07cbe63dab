# Semantic FPN with GhostNetV2 on your own pictures and masks. Copy this file to a
# folder beside this one, for example configs/custom/, and change the part up to the
# line. docs/your_data.md explains each step.
_base_ = '../segmentors/fpn_ghostnetv2_ade20k.py'

# Name and colour (RGB) of each value of the masks, from 0 (or 1, see below).
classes = ('background', *'0123456789')
palette = [[20 * i, 255 - 20 * i, 70 * i % 256] for i in range(len(classes))]
data_root = 'data/digits/segmentation/'
train_images, train_masks = 'images/training', 'annotations/training'
val_images, val_masks = 'images/validation', 'annotations/validation'
# True where 0 means "not labelled" and the first class is 1. The value 255 is always
# "not labelled".
reduce_zero_label = True

weights = 'ghostnet://ghostnetv2-100'  # or a file, where there is no network
frozen_stages = -1  # 4 freezes up to stride 8: for few pictures, or a slow CPU
size = 320  # side of a random crop in pixels, a multiple of 32
batch_size = 8  # images on one GPU or CPU
flip = False  # True where a mirrored object is the same object
# --------------------------------------------------------------------------------------

from mmghostnetv2.custom_data import count_images, plan_epochs  # noqa: E402

num_images = count_images(data_root + train_images)
max_iters = max(1, plan_epochs(num_images) * -(-num_images // batch_size))
warmup_iters = -(-max_iters // 20)

norm_cfg = dict(type='BN')  # one GPU or CPU; 'SyncBN' for several GPUs
model = dict(
    data_preprocessor=dict(size=(size, size)),
    backbone=dict(
        frozen_stages=frozen_stages,
        norm_cfg=norm_cfg,
        init_cfg=dict(checkpoint=weights) if weights else None,
    ),
    neck=dict(norm_cfg=norm_cfg),
    decode_head=dict(num_classes=len(classes), norm_cfg=norm_cfg),
)

load_labels = dict(type='LoadAnnotations', reduce_zero_label=reduce_zero_label)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    load_labels,
    dict(type='RandomCrop', crop_size=(size, size), cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5 if flip else 0.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    load_labels,
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=reduce_zero_label,
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        dataset,
        data_prefix=dict(img_path=train_images, seg_map_path=train_masks),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,  # the pictures may differ in size
    num_workers=2,
    dataset=dict(
        dataset,
        data_prefix=dict(img_path=val_images, seg_map_path=val_masks),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_interval = -(-max_iters // 10)
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=False,
        begin=warmup_iters,
        end=max(max_iters, warmup_iters + 1),
    ),
]
custom_hooks = [dict(type='ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=val_interval, max_keep_ckpts=2, save_best='mIoU'),
)
