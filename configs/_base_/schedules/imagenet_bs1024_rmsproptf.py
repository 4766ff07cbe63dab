# The released recipe: 8 GPUs x 128 images, 450 epochs.
max_epochs = 450
optim_wrapper = dict(
    type='GPUAmpOptimWrapper',  # mixed precision, which mmengine has for GPUs only
    optimizer=dict(
        type='RMSpropTF',
        lr=0.064,
        alpha=0.9,
        momentum=0.9,
        eps=0.001,
        weight_decay=1e-5,
    ),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = dict(
    type='TimmStepLR',
    decay_epochs=2.4,
    decay_rate=0.973,
    warmup_epochs=3,
    warmup_lr=1e-6,
    noise_range=(0.42 * max_epochs, 0.9 * max_epochs),
)
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
custom_hooks = [
    dict(
        type='DualEMAHook',
        momentum=1e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL',
    )
]
