"""Convert a network saved by torch.export to LiteRT. Runs alone, by its path.

    python litert_worker.py PROGRAM.pt2 IMAGES.npy OUT.tflite [--int8]

litert-torch brings versions that OpenMMLab does not get along with. So this runs in an
environment of its own, which ``make litert`` builds, and imports none of OpenMMLab.
"""

import argparse

import numpy as np
import torch


def quantize(path, images):
    """Make a LiteRT file one of 8-bit integers, as far as its operators allow.

    Weights get a scale a channel, activations one a tensor. Input and outputs stay
    float32.

    Args:
        path (str): The file, which is replaced.
        images (np.ndarray): What tells the ranges of activations, (N, 1, C, H, W).
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    runner = Interpreter(path).get_signature_runner()
    (name,) = runner.get_input_details()
    job = quantizer.Quantizer(path, recipe.static_wi8_ai8())
    samples = {'serving_default': [{name: image} for image in images]}
    ranges = job.calibrate(samples)
    job.quantize(ranges).export_model(path, overwrite=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('program')
    parser.add_argument('images', help='the first gives the shape')
    parser.add_argument('out')
    parser.add_argument('--int8', action='store_true', help='calibrate with the images')
    args = parser.parse_args()
    import litert_torch

    images = np.load(args.images)
    network = torch.export.load(args.program).module()
    litert_torch.convert(network, (torch.from_numpy(images[0]),)).export(args.out)
    if args.int8:
        quantize(args.out, images)


if __name__ == '__main__':
    main()
