_base_ = 'mobilenetv2_110_se_in1k.py'

model = dict(
    backbone=dict(
        attention=dict(
            _delete_=True, type='mmghostnetv2.CoordinateAttention', ratio=1 / 32
        )
    )
)
