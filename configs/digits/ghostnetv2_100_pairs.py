# The class of a picture is the relation of its two digits, at the left and at the right
# end. tools/datasets/make_digit_pairs.py makes the pictures and explains the classes;
# tools/analysis_tools/compare_long_range.py compares this with ghostnet_110_pairs.py.
_base_ = './ghostnetv2_100_digits.py'

num_classes = 7  # two for pairs; five for single digits, which only train has
max_epochs = 6
model = dict(
    head=dict(
        num_classes=num_classes,
        loss=dict(_delete_=True, type='CrossEntropyLoss', loss_weight=1.0),
    )
)
data_preprocessor = dict(num_classes=num_classes)

# No augmentation: the pictures already vary in place, size, slant and colours.
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(data_root='data/digit_pairs', pipeline=pipeline)
train_dataloader = dict(batch_size=32, dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, by_epoch=False, begin=0, end=270),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=1))
