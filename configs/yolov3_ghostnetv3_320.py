# yolov3_ghostnetv2_320.py with GhostNetV3 as the backbone.
# It trains with branches. Exporters and reparameterize_model.py merge the branches; the
# result is GhostNetV2's network.
_base_ = 'yolov3_ghostnetv2_320.py'

model = dict(
    backbone=dict(
        type='GhostNetV3', init_cfg=dict(checkpoint='ghostnet://ghostnetv3-100')
    )
)
