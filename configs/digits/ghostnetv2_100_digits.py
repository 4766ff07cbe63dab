# Pre-training on handwritten digits, which tools/datasets/make_digits.py makes.
_base_ = [
    '../_base_/models/ghostnetv2_100_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]

num_classes = 10
max_epochs = 2
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
# A digit is 26 to 62 pixels high here, and 36 to 80 in the pictures for detection and
# segmentation. There is no flip, because a mirrored digit is a different sign.
size = 64
grey = (200, 200, 200)
geometry = dict(prob=1.0, magnitude_std='inf', pad_val=grey, interpolation='bilinear')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=(size, size), ratio_range=(0.8, 1.3)),
    dict(type='Shear', magnitude_range=(0, 0.2), **geometry),
    dict(type='Rotate', magnitude_range=(0, 10), **geometry),
    dict(
        type='CenterCrop',
        crop_size=size,
        auto_pad=True,
        pad_cfg=dict(type='Pad', pad_val=dict(img=grey)),
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    # Workers that start at each epoch with torch's seeds let a resumed training be
    # exact.
    persistent_workers=False,
    worker_init_fn=dict(type='keep_torch_seeds'),
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

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
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
    logger=dict(interval=15),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    visualization=dict(rescale_factor=3),  # makes the caption legible
)
randomness = dict(seed=0)
