# Several processes without a GPU: a second base for the config to run, as in
#     _base_ = ['../yolov3_ghostnetv2_320.py', '../_base_/gloo_cpu.py']
# and then `mim train mmdet CONFIG --launcher pytorch --gpus 2`. With a GPU it changes
# nothing. Batch norms, SyncBN included, see the images of their own process alone. The
# copy of the config in the work dir lacks the import below: test with CONFIG itself. A
# model that has parameters without gradient needs
# model_wrapper_cfg = dict(find_unused_parameters=True) in CONFIG.
if not __import__('torch').cuda.is_available():
    # custom_imports must not be in two bases of a config, and an import statement would
    # make mmengine read this file as a config of another kind
    __import__('mmghostnetv2.engine.gloo')
    # broadcast_buffers as the runner sets it where no wrapper is named
    model_wrapper_cfg = dict(type='CPUDistributedDataParallel', broadcast_buffers=False)
