# MobileNetV2 in YOLOv3 (paper, Table 3): mmdet's config, with the import
# that lets torch >= 2.6 read checkpoints of mmengine.
_base_ = 'mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py'

custom_imports = dict(imports=['mmghostnetv2'], allow_failed_imports=False)
