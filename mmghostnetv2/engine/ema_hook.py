"""For mmpretrain; a config that uses it names this module in ``custom_imports``."""

from mmengine.registry import HOOKS
from mmpretrain.engine.hooks import EMAHook


@HOOKS.register_module()
class DualEMAHook(EMAHook):
    """Moving average of the weights: validate it beside the raw ones, test it alone.

    mmpretrain's own hook can validate both, but then also tests both, and the raw
    weights' predictions overwrite those of the average where a test saves them.

    Args:
        kwargs: As in mmpretrain's EMAHook.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(evaluate_on_ema=True, evaluate_on_origin=True, **kwargs)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Put the raw weights back."""
        self._swap_ema_parameters()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Load the average, also from files that are a state dict by themselves."""
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': checkpoint}
        super().after_load_checkpoint(runner, checkpoint)
