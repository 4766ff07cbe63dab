"""Convert networks to LiteRT, and quantise them. Runs alone, by its path.

    python litert_worker.py convert PROGRAM.pt2 OUT.tflite
    python litert_worker.py quantize MODEL.tflite IMAGES.npy

litert-torch brings versions that OpenMMLab does not get along with. So this runs in an
environment of its own, which ``make litert`` builds, and imports none of OpenMMLab.
"""

import sys

import numpy as np


def convert(program, out):
    """Convert a file of torch.export, with the images that it was made with."""
    import litert_torch
    import torch

    program = torch.export.load(program)
    litert_torch.convert(program.module(), *program.example_inputs).export(out)


def quantize(model, images):
    """Quantise a file to integers of 8 bits, in its place.

    Weights get a scale a channel, activations one a tensor. Input and outputs stay
    float32. The images, (number, N, C, H, W), tell the ranges of activations.
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
