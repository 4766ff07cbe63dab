"""Convert networks to LiteRT, and quantise them. Runs alone, by its path.

    python litert_worker.py convert PROGRAM.pt2 OUT.tflite
    python litert_worker.py quantize MODEL.tflite IMAGES.npy

litert-torch depends on versions that OpenMMLab does not work with. So this script runs
in an environment of its own, which ``make litert`` builds, and imports no OpenMMLab.
"""

import sys

import numpy as np


def convert(program, out):
    """Convert a file of torch.export that holds its example inputs."""
    import litert_torch
    import torch

    program = torch.export.load(program)
    litert_torch.convert(program.module(), *program.example_inputs).export(out)


def quantize(model, images):
    """Quantise a file to integers of 8 bits, in its place.

    Weights have a scale for each channel, activations one for each tensor. Input and
    outputs stay float32. The ranges of activations come from the images, (number, N, C,
    H, W).
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe

    (name,) = Interpreter(model).get_signature_runner().get_input_details()
    job = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    for end in qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT:
        job.update_quantization_recipe('.*', end, algorithm_key='no_quantize')
    samples = {'serving_default': [{name: image} for image in np.load(images)]}
    job.quantize(job.calibrate(samples)).export_model(model, overwrite=True)


if __name__ == '__main__':
    {'convert': convert, 'quantize': quantize}[sys.argv[1]](*sys.argv[2:])
