from .attention_maps import (
    cross_shares,
    decoupled_attention,
    down_sampled_position,
    full_attention,
    image_sensitivity,
    record_inputs,
)

__all__ = [
    'cross_shares',
    'decoupled_attention',
    'down_sampled_position',
    'full_attention',
    'image_sensitivity',
    'record_inputs',
]
