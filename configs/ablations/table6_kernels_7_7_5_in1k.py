_base_ = '../ghostnetv2_100_in1k.py'

model = dict(backbone=dict(dfc_kernel_sizes=(7, 7, 5)))
