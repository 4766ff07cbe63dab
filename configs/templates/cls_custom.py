# GhostNetV2 as a classifier of your own pictures, one folder for each class. Copy this
# file to a folder beside this one, for example configs/custom/, and change the part up
# to the line. docs/your_data.md explains each step.
_base_ = [
    '../_base_/models/ghostnetv2_100_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]

# The names of the folders, in alphabetical order.
classes = tuple('0123456789')
data_root = 'data/digits/classification/'
train_images, val_images = 'train', 'val'

weights = 'ghostnet://ghostnetv2-100'  # or a file, where there is no network
frozen_stages = -1  # 4 freezes up to stride 8: for few pictures, or a slow CPU
size = 224  # side of the network's input in pixels
batch_size = 32  # images on one GPU or CPU
flip = False  # True where a mirrored picture has the same class
# --------------------------------------------------------------------------------------

from mmghostnetv2.custom_data import count_images, plan_epochs  # noqa: E402

max_epochs = plan_epochs(count_images(data_root + train_images))
warmup_epochs = max(1, max_epochs // 20)

data_preprocessor = dict(num_classes=len(classes))
model = dict(
    backbone=dict(
        frozen_stages=frozen_stages,
        init_cfg=dict(type='Pretrained', checkpoint=weights) if weights else None,
    ),
    head=dict(
        num_classes=len(classes),
        topk=(1,),
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=size,
        crop_ratio_range=(0.5, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5 if flip else 0.0),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=size * 8 // 7,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
dataset = dict(
    type='CustomDataset', data_root=data_root, metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    # Workers that start at each epoch with torch's seeds let a resumed training be
    # exact.
    persistent_workers=False,
    worker_init_fn=dict(type='keep_torch_seeds'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(dataset, data_prefix=train_images, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, data_prefix=val_images, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(
    by_epoch=True, max_epochs=max_epochs, val_interval=max(1, max_epochs // 20)
)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
# In epochs, so that both scale with the size of the set and the number of GPUs.
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
    logger=dict(interval=10),
    checkpoint=dict(
        type='SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'
    ),
)
auto_scale_lr = dict(base_batch_size=batch_size)
