# The default of Tables 9 and 10 in the paper's section 5.4. The released code has
# average pooling and nearest up-sampling instead.
_base_ = '../ghostnetv2_100_in1k.py'

model = dict(backbone=dict(down_sampling='max', up_sampling='bilinear'))
