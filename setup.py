"""Packaging of mmghostnetv2.

``mim`` looks for configs, tools and model-index.yml in the folder ``.mim`` of the
installed package. An archive gets copies there, an editable install gets links.
"""

import os
import re
import shutil
from importlib.metadata import distributions
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.develop import develop
except ImportError:  # deprecated: once it is gone nothing calls the class below
    from setuptools import Command as develop

NAME = 'mmghostnetv2'
URL = f'https://github.com/{NAME}/{NAME}'
ROOT = Path(__file__).resolve().parent
MIM_ITEMS = ('configs', 'tools', 'model-index.yml', 'dataset-index.yml')


def mim_sources():
    return [ROOT / item for item in MIM_ITEMS if (ROOT / item).exists()]


def link_mim():
    """Make ``.mim`` in the source package, of links relative to it."""
    folder = ROOT / NAME / '.mim'
    shutil.rmtree(folder, ignore_errors=True)
    if any(distributions(name='onedl-mim')):
        return  # it searches the whole checkout, and would find each config twice
    folder.mkdir()
    for source in mim_sources():
        (folder / source.name).symlink_to(Path('..', '..', source.name))


class BuildPy(build_py):
    """Add ``.mim`` to what is built."""

    def run(self):
        super().run()
        if self.editable_mode:
            link_mim()
            self.lead_to_source()
        else:
            self.copy_mim(Path(self.build_lib, NAME, '.mim'))

    def copy_mim(self, folder):
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier build left
        folder.mkdir(parents=True)
        junk = shutil.ignore_patterns('.*', '__pycache__', '*.pyc', 'work_dirs')
        for source in mim_sources():
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=junk)
            else:
                shutil.copy(source, folder)

    def lead_to_source(self):
        """Let mim and mmengine find the source of a PEP 660 editable install.

        Both take the package's folder to be the one beside its metadata, or else the
        first name in top_level.txt, joined to the metadata's folder: site-packages,
        where an editable install has no package. Joined to it, an absolute path stays
        what it is.
        """
        wheel = Path(self.get_finalized_command('install').install_lib)
        for names in wheel.glob('*.dist-info/top_level.txt'):
            names.write_text(f'{ROOT / NAME}\n{NAME}\n')


class Develop(develop):
    """``setup.py develop``, which pip < 25.3 calls for ``pip install -e``."""

    def run(self):
        link_mim()
        # setuptools >= 80 calls pip again, which would build in an environment of its
        # own, from the network. The value 0 is pip's spelling of "no isolation".
        os.environ.setdefault('PIP_NO_BUILD_ISOLATION', '0')
        super().run()


# mmcv-lite needs no compiler, and with torchvision this package provides its operators.
# mmengine and mim import pkg_resources, which setuptools 82 dropped.
MMCV = [
    'mmengine>=0.10.4,<1.0',
    'mmcv-lite>=2.0.0,<2.2.0',
    'torchvision',
    'setuptools<81',
]
# imported by the tools, beside what mmengine itself asks for
TOOLS = ['pandas']
# The maintained forks. onedl-mmcv is compiled when it is installed, for the torch that
# is there then, by `pip install --no-build-isolation`.
ONEDL = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'torchvision']
FORKS = {
    'cls-onedl': [*ONEDL, *TOOLS, 'onedl-mmpretrain>=1.3', 'safetensors', 'timm'],
    'det-onedl': [*ONEDL, *TOOLS, 'onedl-mmdetection>=3.5', 'pycocotools', 'scipy'],
    'seg-onedl': [*ONEDL, *TOOLS, 'onedl-mmsegmentation>=1.4'],
}
EXTRAS = {
    'cls': [*MMCV, *TOOLS, 'mmpretrain>=1.2.0,<1.3', 'safetensors', 'timm'],
    # the check of an exported detector matches boxes with SciPy
    'det': [*MMCV, *TOOLS, 'mmdet>=3.3.0,<3.4', 'pycocotools', 'scipy'],
    # mmsegmentation imports ftfy and regex without asking for them
    'seg': [*MMCV, *TOOLS, 'mmsegmentation>=1.2.2,<1.3', 'ftfy', 'regex'],
    'deploy': ['onnx', 'onnxscript', 'onnxruntime'],
    'openvino': ['onnx', 'onnxscript', 'openvino'],
    'ncnn': ['onnx', 'onnxscript', 'ncnn', 'pnnx'],
    # each release of executorch is made for one of torch: 1.5 for 2.14
    'executorch': ['executorch', 'torchao'],
    'coreml': ['coremltools'],
    # runs LiteRT's files; `make litert` builds what writes them
    'litert': ['ai-edge-litert'],
    **FORKS,
    'docs': ['sphinx', 'myst-nb', 'furo', 'sphinx-copybutton', 'sphinx-design'],
    'tests': ['pytest', 'hypothesis', 'timm', 'scikit-learn'],
}
originals = [extra for name, extra in EXTRAS.items() if name not in FORKS]
EXTRAS['all'] = sorted(set().union(*originals))

version = re.search(r"'(.+)'", (ROOT / NAME / 'version.py').read_text())[1]

setup(
    name=NAME,
    version=version,
    description='GhostNetV2 as a plugin backbone for OpenMMLab 2.x',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmghostnetv2 contributors',
    url=URL,
    project_urls={'Changelog': f'{URL}/blob/main/CHANGELOG.md'},
    license='Apache-2.0',
    keywords='computer vision, backbone, GhostNetV2, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: POSIX :: Linux',
        # those the tests run on
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    # makes setuptools serve an editable install by a plain path, not by an import hook,
    # which a folder of that name (a clone in the working directory) would shadow
    package_dir={'': '.'},
    packages=find_packages(include=[f'{NAME}*']),
    package_data={NAME: ['py.typed']},
    python_requires='>=3.10',
    # torch alone: mmengine and mmcv may come from maintained forks, distributions of
    # other names that keep the import names. The extras ask for the originals.
    install_requires=['torch>=2.6'],
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildPy, 'develop': Develop},
    zip_safe=False,
)
