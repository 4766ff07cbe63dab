_base_ = 'ghostnet_100_in1k.py'

model = dict(backbone=dict(widen_factor=1.7), head=dict(in_channels=1632))
