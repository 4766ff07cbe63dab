# GhostNetV3 by the defaults of the authors' train.py, without its teacher: see
# ghostnetv3_100_distill_in1k.py. The published weights may need more than is known
# here. Their script cannot be run, because it imports a loss that is missing. Neither
# the number of GPUs, from which the whole batch and so the meaning of the learning rate
# follow, nor any option of the command line is published. Mixup and CutMix are left
# out, because the paper finds that they harm.
_base_ = [
    '_base_/models/ghostnetv2_100_cls.py',
    '_base_/datasets/imagenet_bs128_randaug.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(type='GhostNetV3'),
    head=dict(
        dropout_rate=0.0,
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
            loss_weight=1.0,
        ),
    ),
)

# Colour jitter takes the place of RandAugment and random erasing.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomChoice',
        transforms=[
            dict(
                type='RandomResizedCrop',
                scale=224,
                backend='pillow',
                interpolation=interpolation,
            )
            for interpolation in ('bilinear', 'bicubic')
        ],
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 300
optim_wrapper = dict(
    type='GPUAmpOptimWrapper',  # mixed precision, which mmengine has for GPUs only
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=2e-5, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
# The full rate is reached in the fourth epoch; timm's cosine counts the first three.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4 / 0.05, begin=0, end=4),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=0, end=max_epochs),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [
    dict(
        type='DualEMAHook',
        momentum=2e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL',
    )
]
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto')
)
