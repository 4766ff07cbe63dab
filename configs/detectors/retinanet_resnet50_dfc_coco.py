# DFC attention as a plugin of mmdet's ResNet-50, in mmdet's RetinaNet 1x recipe. It
# follows the 3x3 convolutions, where the features have few channels and are already
# strided, in the stages that the recipe does not freeze. As in mmdet's configs of
# GCNet, batch norms are trained, because the gates change their inputs.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook'),
    classes=dict(type='CheckClassesHook'),
)
# Workers that start at each epoch with torch's seeds let a resumed training be exact.
train_dataloader = dict(
    persistent_workers=False, worker_init_fn=dict(type='keep_torch_seeds')
)

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        norm_eval=False,
        plugins=[
            dict(
                cfg=dict(type='DFCAttention', norm_cfg=norm_cfg),
                stages=(False, True, True, True),
                position='after_conv2',
            )
        ],
    )
)
