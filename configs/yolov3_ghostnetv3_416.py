# yolov3_ghostnetv2_416.py with GhostNetV3. It trains with
# branches. Exporters and tools/model_converters/reparameterize_model.py merge them,
# which leaves GhostNetV2's network.
_base_ = 'yolov3_ghostnetv2_416.py'

model = dict(
    backbone=dict(
        type='GhostNetV3', init_cfg=dict(checkpoint='ghostnet://ghostnetv3-100')
    )
)
