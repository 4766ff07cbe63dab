# Table 1: GhostNet with the self-attention of MobileViT instead of DFC.
_base_ = '../ghostnetv2_100_in1k.py'

model = dict(backbone=dict(_delete_=True, type='mmghostnetv2.GhostNetSelfAttention'))
