from mmengine.registry import OPTIMIZERS


@OPTIMIZERS.register_module(name='RMSpropTF')
def rmsprop_tf(params, **kwargs):
    """Build timm's RMSpropTF, which the released weights were trained with.

    Unlike torch's RMSprop it starts the mean square at one, adds epsilon inside the
    root and has the learning rate in the momentum, all as TensorFlow does.

    timm is imported here, so that a config which names the optimizer does without timm
    until it trains.

    Args:
        params (Iterable): Parameters or groups of them.
        kwargs: As in ``timm.optim.RMSpropTF``.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        from timm.optim import RMSpropTF
    except ModuleNotFoundError as error:
        raise ImportError(
            "the released recipe's optimizer RMSpropTF is timm's: pip install timm"
        ) from error
    return RMSpropTF(params, **kwargs)
