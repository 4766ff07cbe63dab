# Output stride 16: a quarter of the positions, so half the dilations cover as much.
_base_ = 'deeplabv3_ghostnetv2_ade20k.py'

model = dict(
    backbone=dict(output_stride=16), decode_head=dict(dilations=(1, 6, 12, 18))
)
