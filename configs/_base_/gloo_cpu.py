# This base trains and tests in several processes without a GPU. Write a config with two
# bases, such as
#     _base_ = ['../yolov3_ghostnetv2_320.py', '../_base_/gloo_cpu.py']
# and run `mim train mmdet CONFIG --launcher pytorch --gpus 2`. With a GPU, or in a
# single process, this base changes nothing. Every batch norm, SyncBN included, sees
# only the images of its own process. A model with parameters without gradient needs
# find_unused_parameters = True in CONFIG. mmseg's test.py does not read runner_type, so
# use this package's: `mim test mmghostnetv2 CONFIG --checkpoint CHECKPOINT ...`.
runner_type = 'mmghostnetv2.GlooRunner'
