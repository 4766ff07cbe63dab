"""The location of the package's configs and model index."""

from pathlib import Path


def data_root() -> Path:
    """Return the folder of ``configs/`` and ``model-index.yml``.

    In an installed package this is ``.mim``. In a checkout it is the checkout itself,
    to which the ``.mim`` of an editable install links.
    """
    package = Path(__file__).resolve().parent
    configs = package / '.mim' / 'configs'
    return configs.resolve().parent if configs.is_dir() else package.parent
