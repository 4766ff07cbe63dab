_base_ = 'mobilenetv2_100_in1k.py'

model = dict(backbone=dict(widen_factor=1.1), head=dict(in_channels=1408))
