_base_ = '../ghostnetv2_100_in1k.py'

model = dict(backbone=dict(enhance='both'))
