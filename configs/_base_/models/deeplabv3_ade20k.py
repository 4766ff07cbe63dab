# mmsegmentation's DeepLabV3 at output stride 8, without its backbone.
_base_ = './encoder_decoder_ade20k.py'

model = dict(
    decode_head=dict(
        type='ASPPHead', in_index=3, channels=512, dilations=(1, 12, 24, 36)
    )
)
