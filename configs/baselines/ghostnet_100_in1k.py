# GhostNet V1 (paper, Table 2) by the recipe of GhostNetV2's released weights.
_base_ = '../ghostnetv2_100_in1k.py'

model = dict(backbone=dict(type='GhostNet'))
