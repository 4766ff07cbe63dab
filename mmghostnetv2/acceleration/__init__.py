"""Faster modules that replace plain ones and compute the same.

The networks in :mod:`mmghostnetv2.models` are plain torch. :func:`accelerate` swaps
those modules whose exact type it knows for subclasses with the same parameters and the
same state dict; :func:`restore` undoes it.

No private name of torch is used here. Triton, the language of the kernels, has no
stable interface, so ``tests/test_acceleration`` runs all kernels; without a GPU they
run in Triton's interpreter.
"""

from .accelerate import accelerate, restore

__all__ = ['accelerate', 'restore']
