"""What DFC attention and self-attention look at."""

from .attention_maps import (
    decoupled_attention,
    down_sampled_position,
    full_attention,
    image_sensitivity,
    record_inputs,
)

__all__ = [
    'decoupled_attention',
    'down_sampled_position',
    'full_attention',
    'image_sensitivity',
    'record_inputs',
]
