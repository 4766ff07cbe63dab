# The released recipe's data: crops of 224, timm's rand-m9-mstd0.5, random erasing.
dataset_type = 'ImageNet'
data_root = 'data/imagenet'
bgr_mean = [103.53, 116.28, 123.675]
bgr_std = [57.375, 57.12, 58.395]

# The operations of timm's rand-m9-mstd0.5. It differs from the "increasing" variant
# (-inc1), which is mmpretrain's preset: posterize and solarize become weaker at higher
# levels, and colours are always strengthened at level 9. Level 10 is the end of a
# range. timm chooses between two interpolations at random, so each operation is listed
# twice.
colour_operations = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    # mmpretrain rounds bits up where timm rounds down
    dict(type='Posterize', magnitude_range=(-1 + 1e-6, 3 + 1e-6)),
    dict(type='Solarize', magnitude_range=(0, 256)),
    dict(type='SolarizeAdd', magnitude_range=(0, 110)),
    *[
        dict(type=name, magnitude_range=(-0.9, 0.9), random_negative_prob=0.0)
        for name in ('ColorTransform', 'Contrast', 'Brightness', 'Sharpness')
    ],
]
geometric_operations = [
    dict(type='Rotate', magnitude_range=(0, 30)),
    *[
        dict(type=name, magnitude_range=(0, limit), direction=direction)
        for name, limit in (('Shear', 0.3), ('Translate', 0.45))
        for direction in ('horizontal', 'vertical')
    ],
]
interpolations = ('bilinear', 'bicubic')
rand_augment = 2 * colour_operations + [
    dict(operation, interpolation=interpolation)
    for interpolation in interpolations
    for operation in geometric_operations
]
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
            for interpolation in interpolations
        ],
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies=rand_augment,
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(value) for value in bgr_mean]),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.2,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    num_workers=8,
    # Workers that start at each epoch with torch's seeds let a resumed training be
    # exact.
    persistent_workers=False,
    worker_init_fn=dict(type='keep_torch_seeds'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
