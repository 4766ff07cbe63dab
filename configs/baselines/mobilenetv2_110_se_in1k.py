# MobileNetV2 1.1x with squeeze-and-excitation (SE). The paper (Table 4) does not say
# where SE, CBAM and CA are placed or by which ratio they reduce the channels, and no
# choice matches all of its figures: the network has 4.1 M parameters without attention,
# so it cannot have 4.0 M with SE or CBAM, and CA cannot add 12 M FLOPs without adding
# parameters. On the output of each block they are closest:
#
#         parameters, FLOPs    paper
#   SE    4.10 M, 338.0 M      4.0 M, 338 M
#   CBAM  4.10 M, 340.2 M      4.0 M, 338 M
#   CA    4.12 M, 338.7 M      4.1 M, 350 M
#
# CA's paper (arXiv 2103.02907) compares the three, at the same ratios, after the
# depthwise convolution. There they would have 4.55 to 4.60 M and 338 to 345 M.
_base_ = 'mobilenetv2_110_in1k.py'

model = dict(
    backbone=dict(
        type='mmghostnetv2.MobileNetV2Attention',
        attention=dict(
            type='mmghostnetv2.SqueezeExcite', ratio=1 / 24, scaling='sigmoid'
        ),
        position='output',
    )
)
