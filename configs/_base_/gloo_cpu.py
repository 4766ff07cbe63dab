# Several processes without a GPU: a second base of the config to run, as in
#     _base_ = ['../yolov3_ghostnetv2_320.py', '../_base_/gloo_cpu.py']
# Then run `mim train mmdet CONFIG --launcher pytorch --gpus 2`. With a GPU, or in a
# single process, this base changes nothing. Every batch norm, SyncBN included, sees the
# images of its own process alone. A model that has parameters without gradient needs
# find_unused_parameters = True in CONFIG. mmseg's test.py does not read runner_type;
# this package's does: `mim test mmghostnetv2 CONFIG --checkpoint CHECKPOINT ...`.
runner_type = 'mmghostnetv2.GlooRunner'
