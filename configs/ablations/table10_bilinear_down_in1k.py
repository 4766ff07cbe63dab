_base_ = 'table9_sigmoid_before_in1k.py'

model = dict(backbone=dict(down_sampling='bilinear'))
