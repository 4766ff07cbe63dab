# YOLOv3-GhostNetV2 on your own pictures with labels in COCO's format. Copy this file to
# a folder beside this one, for example configs/custom/, and change the part up to the
# line. docs/your_data.md explains each step.
_base_ = '../yolov3_ghostnetv2_416.py'

# Each name as in the file's `categories`, in the same order. One class: ('helmet',)
classes = tuple('0123456789')
data_root = 'data/digits/detection/'
train_ann, train_images = 'annotations/instances_train.json', 'train/'
val_ann, val_images = 'annotations/instances_val.json', 'val/'

weights = 'ghostnet://ghostnetv2-100'  # or a file, where there is no network
frozen_stages = -1  # 4 freezes up to stride 8: for few pictures, or a slow CPU
size = 416  # the long side of a picture in pixels, a multiple of 32
batch_size = 8  # images on one GPU or CPU
flip = False  # True where a mirrored object is the same object
# --------------------------------------------------------------------------------------

from mmghostnetv2.custom_data import count_images, plan_epochs  # noqa: E402

max_epochs = plan_epochs(count_images(data_root + train_ann))
warmup_epochs = max(1, max_epochs // 20)

model = dict(
    backbone=dict(
        frozen_stages=frozen_stages,
        init_cfg=dict(checkpoint=weights) if weights else None,
    ),
    bbox_head=dict(num_classes=len(classes)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=[(size * 3 // 4, size * 3 // 4), (size, size)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5 if flip else 0.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
# Without metainfo, mmdet would use COCO's names: 'person', 'bicycle', ...
metainfo = dict(classes=classes)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='CocoDataset',
        data_root=data_root,
        ann_file=train_ann,
        data_prefix=dict(img=train_images),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=False, min_size=1),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file=val_ann,
        data_prefix=dict(img=val_images),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_ann)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max(1, max_epochs // 20))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05)
)
# In epochs, so that both scale with the size of the set and the number of GPUs. The
# recipe of COCO warms up for 4000 iterations, in which a small set would learn nothing.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        begin=0,
        end=warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        begin=warmup_epochs,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type='ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2, save_best='auto')
)
auto_scale_lr = dict(base_batch_size=batch_size)
