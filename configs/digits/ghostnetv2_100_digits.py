# Pre-training on handwritten digits, made by tools/datasets/make_digits.py.
_base_ = [
    '../_base_/models/ghostnetv2_100_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]

num_classes = 10
max_epochs = 4
model = dict(
    backbone=dict(zero_init_residual=True),
    head=dict(
        num_classes=num_classes,
        topk=(1,),
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1),
    ),
)
data_preprocessor = dict(num_classes=num_classes)

data_root = 'data/digits/classification'
# a quarter of 96 pixels' work; no flip, since a mirrored digit is another sign
geometry = dict(
    prob=1.0, magnitude_std='inf', pad_val=(200, 200, 200), interpolation='bilinear'
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Shear', magnitude_range=(0, 0.25), **geometry),
    dict(type='Rotate', magnitude_range=(0, 10), **geometry),
    dict(type='RandomResizedCrop', scale=48, crop_ratio_range=(0.8, 1.0)),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=48),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='val',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05, fused=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=45),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type='ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=15), checkpoint=dict(interval=1, max_keep_ckpts=2)
)
randomness = dict(seed=0)
