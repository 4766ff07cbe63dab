# Several processes without a GPU: a second base of the config to run, as in
#     _base_ = ['../yolov3_ghostnetv2_320.py', '../_base_/gloo_cpu.py']
# Then run `mim train mmdet CONFIG --launcher pytorch --gpus 2`. With a GPU, or in a
# single process, this base changes nothing. Every batch norm, SyncBN included, sees the
# images of its own process alone. A model that has parameters without gradient needs
# find_unused_parameters = True in CONFIG. The test.py of mmseg does not read runner_type;
# that of this package does: `mim test mmghostnetv2 CONFIG ...`.
runner_type = 'mmghostnetv2.GlooRunner'
