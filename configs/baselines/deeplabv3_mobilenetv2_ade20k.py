# MobileNetV2 in DeepLabV3 (paper, Table 5): mmseg's config, with the import
# that lets torch >= 2.6 read checkpoints of mmengine.
_base_ = 'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb4-160k_ade20k-512x512.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)
