# The recipe of the released weights, from the authors' README and timm 0.3.2.
_base_ = [
    '_base_/models/ghostnetv2_100_cls.py',
    '_base_/datasets/imagenet_bs128_randaug.py',
    '_base_/schedules/imagenet_bs1024_rmsproptf.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
            loss_weight=1.0,
        )
    )
)
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto')
)
