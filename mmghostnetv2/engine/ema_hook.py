"""mmpretrain's moving average of the weights, which is tested alone."""

from mmengine.runner import Runner
from mmpretrain.engine.hooks import EMAHook


class DualEMAHook(EMAHook):
    """Validate the moving average and the raw weights, but test the average alone.

    mmpretrain's own hook either does both or neither. When it tests both, the
    predictions of the raw weights overwrite those of the average in the saved files.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(evaluate_on_ema=True, evaluate_on_origin=True, **kwargs)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the raw weights back without testing them, as mmengine's hook does."""
        super(EMAHook, self).after_test_epoch(runner, metrics)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the average; the file may also be a plain state dict."""
        if 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': checkpoint}
        super().after_load_checkpoint(runner, checkpoint)
