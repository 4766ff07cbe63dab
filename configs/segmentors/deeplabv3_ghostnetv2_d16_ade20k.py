# DeepLabV3 at output stride 16 instead of 8. The dilations of its head are halved, so
# they reach equally far in the image.
_base_ = '../deeplabv3_ghostnetv2_ade20k.py'

model = dict(
    backbone=dict(output_stride=16), decode_head=dict(dilations=(1, 6, 12, 18))
)
